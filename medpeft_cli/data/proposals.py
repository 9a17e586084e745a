"""What a folder may be: a card's fields by its class folders, by a table, or by arrays."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from medpeft_cli.data import guess
from medpeft_cli.data.card import SPLITS
from medpeft_cli.data.forms import JOINER
from medpeft_cli.data.layouts.table import PRESENT
from medpeft_cli.data.tables import read_table, read_text, table_columns
from medpeft_cli.errors import DataError
from medpeft_cli.words import counted

LOOKED_AT = 100  # text files
WORD = re.compile(r"[^\W\d_]{2,}")
REPORT = re.compile(r"\b(IMPRESSION|FINDINGS)\b\s*:")
MASK_PATTERN = r"_(mask|seg|segmentation)(_\d+)?\.[A-Za-z]+$"


@dataclass
class Draft:
    """A card in the making, and what was found.

    Attributes:
        fields: of the card, without its name.
        found: lines for the console.
        comments: field → what stands behind it in the card.
    """

    fields: dict[str, Any]
    found: list[str]
    comments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """Pictures below the source, relative to it; without masks."""

    files: list[str]
    masks: int
    dicom: bool


def from_folders(pictures: Pictures) -> Draft | None:
    """Return a draft where pictures lie in two folders or more, below split folders or not."""
    base, tops = _base([file.split("/")[:-1] for file in pictures.files])
    depth = len(base)
    below = [file.split("/")[depth:] for file in pictures.files]
    splits = {guess.SPLIT_WORDS[top.lower()]: top for top in sorted(tops) if top.lower() in guess.SPLIT_WORDS}
    if "train" in splits and len(splits) > 1:
        inside = [parts[1:] for parts in below if parts[0] in splits.values()]
        beside = Counter(parts[0] for parts in below if parts[0] not in splits.values())
    else:
        splits, inside, beside = {}, below, Counter()
    counts = Counter(parts[0] for parts in inside if len(parts) > 1)
    names = [parts[-1] for parts in inside]
    group = guess.group_pattern(names)
    groups: dict[str, set[str]] = defaultdict(set)
    for parts in inside:
        if len(parts) > 1:
            groups[parts[0]].add(guess.group_in(group, parts[-1]) or "/".join(parts))
    classes = sorted(label for label in counts if len(groups[label]) >= guess.FEWEST_GROUPS)
    if len(classes) < 2 or len(classes) > guess.MOST_CLASSES:
        return None
    layout: dict[str, Any] = {"kind": "class_folders"}
    if base:
        layout["folder"] = "/".join(base)
    if splits:
        layout["splits"] = splits
    if pictures.masks:
        layout["mask_pattern"] = MASK_PATTERN
    if group:
        layout["group_pattern"] = group
    elif pictures.dicom:
        layout["group_tag"] = "PatientID"
    found = [f"class folders: {_numbered(sorted(counts), counts)}"]
    if beside:
        found.append(f"left aside, beside the splits: {_numbered(sorted(beside), beside)}")
    if splits:
        found.append(f"ready splits: {', '.join(f'{folder} = {split}' for split, folder in splits.items())}")
    found += _left_aside(sorted(set(counts) - set(classes)), counts)
    draft = Draft({"modality": "medical pictures", "classes": classes, "layout": layout}, found)
    return _with_groups(draft, layout, [guess.group_in(group, name) for name in names])


def from_text_files(pictures: Pictures, source: Path, paths: Sequence[Path]) -> Draft | None:
    """Return a draft where most pictures have a text file of their name beside them, in words."""
    texts = {path.relative_to(source).with_suffix("").as_posix() for path in paths if path.suffix == ".txt"}
    having = [file for file in pictures.files if str(PurePosixPath(file).with_suffix("")) in texts]
    if len(having) < max(guess.FEWEST_GROUPS, 0.9 * len(pictures.files)):
        return None
    read = [read_text((source / file).with_suffix(".txt")) for file in having[:: len(having) // LOOKED_AT + 1]]
    if sum(len(WORD.findall(text)) >= guess.FEWEST_WORDS for text in read) <= len(read) / 2:  # such as boxes
        return None
    layout: dict[str, Any] = {"kind": "text_files"}
    if any(REPORT.search(text) for text in read):
        layout["sections"] = ["impression", "findings"]
    names = [Path(file).name for file in having]
    if pattern := guess.group_pattern(names):
        layout["group_pattern"] = pattern
    elif pictures.dicom:
        layout["group_tag"] = "PatientID"
    found = [f"texts: {len(having):,} of {counted(len(pictures.files), 'picture')} have a text file of their name"]
    draft = Draft({"modality": "medical pictures", "task": "text", "layout": layout}, found)
    return _with_groups(draft, layout, [guess.group_in(pattern, name) for name in names])


def _base(folders: Sequence[Sequence[str]]) -> tuple[list[str], set[str]]:
    """Return the deepest folder above all pictures, and the names of the folders in it."""
    base: list[str] = []
    while True:
        tops = {folder[len(base)] for folder in folders if len(folder) > len(base)}
        if len(tops) != 1 or any(len(folder) == len(base) for folder in folders):
            return base, tops
        base.append(tops.pop())


# ---- tables ----


def from_table(source: Path, files: Mapping[str | None, str], pictures: Pictures) -> tuple[int, Draft] | None:
    """Return how many pictures a table names, and the draft by it; None where it names few or no labels.

    Args:
        source: the folder.
        files: {None: table}, or split → its table, all with one header.
        pictures: what there is.
    """
    header = table_columns(source / next(iter(files.values())))
    columns = [name for name in header if name and header.count(name) == 1]
    rows = [row for file in files.values() for row in read_table(source / file, columns)]
    values = {column: [row[column] for row in rows] for column in columns}
    image, folders, extensions, named = guess.image_column(source, values, pictures.files)
    if image is None:
        return None
    rest = {name: column for name, column in values.items() if name != image}
    tables = (
        {"file": files[None]} if None in files else {"files": {name: files[name] for name in SPLITS if name in files}}
    )
    layout: dict[str, Any] = {"kind": "csv", **tables, "image": image}
    layout |= {"folders": folders} if folders else {}
    layout |= {"extensions": extensions} if extensions else {}
    group = next(
        (name for name in rest if guess.GROUP_COLUMN.fullmatch(name) and 1 < len(set(rest[name])) < len(rows)), None
    )
    telling = [] if "files" in layout else [name for name in rest if guess.SPLIT_COLUMN.fullmatch(name)]
    split = next((name for name in telling if guess.are_splits(rest[name])), None)
    text = guess.text_column(rest)
    pattern = None if group else guess.group_pattern([Path(name).name for name in named])
    found = [
        f"{'table' if 'file' in layout else 'tables'} {', '.join(files.values())}: {counted(len(rows), 'row')}; columns {', '.join(columns)}",
        f"pictures: column {image}, {len(named):,} found",
    ]
    names = values[image]
    groups = rest[group] if group else [guess.group_in(pattern, Path(name).name) or name for name in names]
    draft = Draft({"modality": "medical pictures", "layout": layout}, found)
    flags = [name for name, column in rest.items() if guess.is_flag(column)]
    label = (
        None
        if len(flags) >= 3
        else guess.label_column({n: c for n, c in rest.items() if n not in (group, split, text)})
    )
    if len(flags) >= 3:
        several = any(sum(rest[name][i] in PRESENT for name in flags) != 1 for i in range(len(rows)))
        draft.fields |= {"task": "multilabel" if several else "classify", "classes": flags}
        layout["label_columns"] = list(flags)
        found.append(f"labels: {'any number' if several else 'one'} of the columns {', '.join(flags)}")
    elif label:
        _take_labels(draft, label, rest[label], groups)
    elif text:
        draft.fields |= {"task": "text"}
    if not draft.fields.get("classes") and not text:
        return None
    if text:
        layout["text"] = text
        found.append(f"texts: column {text}, {sum(map(bool, rest[text])):,} filled")
        if any(REPORT.search(value) for value in rest[text]):
            layout["sections"] = ["impression", "findings"]
    if split:
        layout["split"] = split
        layout["split_names"] = {name: guess.SPLIT_WORDS[name.lower()] for name in sorted(set(rest[split])) if name}
        found.append(f"official split: column {split}")
    if group:
        layout["group"] = group
    elif pattern:
        layout["group_pattern"] = pattern
    elif pictures.dicom:
        layout["group_tag"] = "PatientID"
    if kept := {
        _plain(name): name for name in rest if guess.KEPT_COLUMN.fullmatch(name) and name not in (label, group)
    }:
        layout["attributes"] = kept
    return len(named), _with_groups(draft, layout, groups)


def _take_labels(draft: Draft, label: str, column: Sequence[str], groups: Sequence[str]) -> None:
    """Add the classes of a label column; values that cannot be split are ignored, and said."""
    joined = any(JOINER in value for value in column)
    counts: Counter[str] = Counter()
    members: dict[str, set[str]] = defaultdict(set)
    for cell, group in zip(column, groups, strict=True):
        for value in filter(None, map(str.strip, cell.split(JOINER) if joined else [cell])):
            counts[value] += 1
            members[value].add(group)
    if joined:
        draft.fields["task"] = "multilabel"
    classes = sorted(
        value
        for value in counts
        if value.lower() not in guess.PLACEHOLDER and len(members[value]) >= guess.FEWEST_GROUPS
    )
    ignored = sorted(set(counts) - set(classes))
    draft.fields["classes"] = classes
    draft.fields["layout"]["label"] = label
    if ignored:
        draft.fields["layout"]["ignore_labels"] = ignored
        draft.comments["ignore_labels"] = f"unclear, or in fewer than {guess.FEWEST_GROUPS} groups"
    draft.found.append(f"labels: column {label}: {_numbered(classes, counts)}")
    draft.found += _left_aside(ignored, counts)


# ---- arrays ----


def from_arrays(path: Path, file: str) -> Draft:
    """Return a draft by the arrays of an .npz.

    Raises:
        DataError: if it cannot be read or holds no arrays of the MedMNIST kind.
    """
    from medpeft_cli.data.layouts.npz import open_arrays

    with open_arrays(path) as archive:
        splits = [split for split in SPLITS if f"{split}_images" in archive.files]
        numbers = {split: archive[f"{split}_labels"].reshape(-1) for split in splits}
    if not splits:
        raise DataError(f"{path}: no array train_images", "docs/datasets.md says which arrays a .npz holds")
    for split, values in numbers.items():
        if values.dtype.kind not in "iu" or not len(values):
            raise DataError(f"{path}: {split}_labels: got {values.dtype} {values.shape}, wanted whole numbers")
    count = max(int(values.max()) for values in numbers.values()) + 1
    classes = [f"class {number}" for number in range(max(count, 2))]
    found = [f"arrays {file}: " + ", ".join(f"{split} {len(values):,}" for split, values in numbers.items())]
    fields = {"modality": "medical pictures", "classes": classes, "layout": {"kind": "npz", "file": file}}
    return Draft(fields, found, {"classes": "label 0, 1, …: write their names"})


# ---- groups ----


def _with_groups(draft: Draft, layout: Mapping[str, Any], groups: Sequence[str | None]) -> Draft:
    """Add what a group is, and tell how many there are; those of DICOM headers are not read yet."""
    keys = {"group": "the column", "group_pattern": "the file name,", "group_tag": "the DICOM tag"}
    if key := next((key for key in keys if key in layout), None):
        unit, whole = guess.unit_of(layout[key]), layout[key] == guess.SAME_NAME
        by = "by the whole file name" if whole else f"by {keys[key]} {layout[key]}"
        draft.fields["split"] = {"group": unit}
        draft.comments["split"] = by
        number = "" if key == "group_tag" else f"{len(set(groups)):,} "
        draft.found.append(f"groups, never in two splits: {number}{by}")
    else:
        draft.comments["layout"] = "no patients found: each picture is its own group"
        draft.found.append("no patients found; if file names or a column tell them, add group_pattern or group")
    return draft


def _left_aside(names: Sequence[str], counts: Counter[str]) -> list[str]:
    listed = _numbered(names, counts)
    return [f"left aside, unclear or in fewer than {guess.FEWEST_GROUPS} groups: {listed}"] if names else []


def _numbered(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{repr(name) if ',' in name else name} {counts[name]:,}" for name in names)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")
