"""Look at a folder and write the draft of its card: kinds of files, class folders, tables and what their columns may be."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.data.card import card_names, load_card
from medpeft_cli.data.decode import is_dicom, is_picture
from medpeft_cli.data.forms import ClassFolders, MimicCxr, Table
from medpeft_cli.data.guess import FEWEST_GROUPS, split_in
from medpeft_cli.data.layouts.files import walk
from medpeft_cli.data.proposals import (
    MASK_PATTERN,
    Draft,
    Pictures,
    from_arrays,
    from_folders,
    from_table,
    from_text_files,
)
from medpeft_cli.data.tables import TABLES, table_columns
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import readable, write_text
from medpeft_cli.recipe.source import dump_values
from medpeft_cli.words import counted

MASK_NAME = re.compile(MASK_PATTERN, re.I)


def write_draft(source: Path, card: str | None) -> tuple[str, list[str]]:
    """Draft the card of a folder, tell what was found, and write the card where a file is given.

    Args:
        source: the folder.
        card: file to write; None = none.

    Raises:
        DataError: if the folder tells no labels and no texts.
        RecipeError: if the file is there already, or its name cannot be that of a card.
        RunError: if it cannot be written.
    """
    path = Path(card) if card else None
    if path and (path.suffix not in (".yaml", ".yml") or path.exists()):
        wrong = "is there already" if path.exists() else "wanted a .yaml file"
        raise RecipeError(f"{path}: {wrong}", "name a new file: medpeft prepare mine.yaml --init-card DIR")
    stem = path.stem if path else source.resolve().name
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_") or "mine"
    with readable(source):
        text, found = draft_card(source, name)
    for line in found:
        console.say(line)
    if path:
        write_text(path, text)
        console.say(f"{path}: look it through, then `medpeft prepare {path} --source {source}`")
    return text, found


def draft_card(source: Path, name: str) -> tuple[str, list[str]]:
    """Look at a folder and draft its card; pictures are not opened.

    A table that names most of the pictures is taken before class folders; .npz before both where there are no pictures.

    Args:
        source: the folder.
        name: of the card.

    Returns:
        YAML that prepare accepts, and what was found, line by line.

    Raises:
        DataError: if there is no folder, no picture, or nothing that tells labels or texts.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder", "give the folder of your pictures")
    source = source.resolve()
    paths = list(walk(source, source))
    relative = {path: path.relative_to(source).as_posix() for path in paths}
    pictures = [path for path in paths if is_picture(path)]
    masks = {path for path in pictures if MASK_NAME.search(path.name)}
    shown = [relative[path] for path in pictures if path not in masks]
    found = Pictures(shown, len(masks), bool(pictures) and is_dicom(pictures[0]))
    lines = [_kinds(paths, len(pictures), len(masks))]
    if known := _known(source):
        return f"base: {known}\nname: {name}\n", [
            *lines,
            f"the download of card {known}: medpeft prepare {known} does it",
        ]
    tables = []
    for files in _tables(source, [relative[path] for path in paths if path.name.lower().endswith(TABLES)]):
        try:
            tables += [(*draft, ", ".join(files.values())) for draft in [from_table(source, files, found)] if draft]
        except DataError as error:
            lines.append(f"table that cannot be read: {error.message}")
    tables.sort(key=lambda table: -table[0])
    folders = from_text_files(found, source, paths) or from_folders(found)
    arrays = [path for path in paths if path.suffix == ".npz"]
    if tables and (tables[0][0] >= 0.9 * len(shown) or not folders):
        draft = tables.pop(0)[1]
    elif folders:
        draft = folders
    elif arrays:
        draft = from_arrays(arrays[0], relative[arrays[0]])
    else:
        raise DataError(
            f"{source}: {'; '.join(lines)}, but no table names them and no two folders have "
            f"{FEWEST_GROUPS} of them each (or pictures of {FEWEST_GROUPS} patients), one for each split",
            "put the pictures into a folder a class, a text file beside each, or a CSV file with their names and labels",
        )
    lines += [
        f"table left aside, it names {named:,} of {counted(len(shown), 'picture')}: {file}" for named, _, file in tables
    ]
    return _yaml(draft, name), lines + draft.found


def _tables(source: Path, files: Sequence[str]) -> list[dict[str | None, str]]:
    """Return the tables, each as {None: file}; those that are one table a split, by their names and headers, as one."""
    splits: dict[str | None, str] = {}
    for file in files:
        if (split := split_in(Path(file).name)) and split not in splits:
            splits[split] = file
    if "train" in splits:
        with suppress(DataError):
            header = table_columns(source / splits["train"])
            splits = {split: file for split, file in splits.items() if table_columns(source / file) == header}
            if len(splits) > 1:
                return [splits, *({None: file} for file in files if file not in splits.values())]
    return [{None: file} for file in files]


def _kinds(paths: Sequence[Path], pictures: int, masks: int) -> str:
    kinds = Counter(path.suffix.lower() or "without extension" for path in paths)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(8))
    files = f"{counted(len(paths), 'file')} ({listed})" if paths else "no files"
    return f"{files}, {counted(pictures, 'picture')}" + (f", {masks:,} of them masks" if masks else "")


def _known(source: Path) -> str | None:
    """Return the card of ours whose download this is; of several the one that takes most of its tables."""
    known, most = None, -1
    for name in card_names():
        for layout in load_card(name).layouts:
            folders = [layout.folder] if isinstance(layout, ClassFolders) else getattr(layout, "folders", ())
            tables = [*layout.files.values(), *filter(None, [layout.file])] if isinstance(layout, Table) else []
            if isinstance(layout, MimicCxr):
                if any(source.glob("mimic-cxr-2.*-split.csv*")):
                    return name
            elif all((source / table).is_file() for table in tables) and any(
                f == source.name or (source / f).is_dir() for f in folders
            ):
                known, most = (name, len(tables)) if len(tables) > most else (known, most)
    return known


def _yaml(draft: Draft, name: str) -> str:
    """Return the card as YAML, with what to look at in comments above it."""
    order = ("modality", "task", "classes", "layout", "split")
    fields = {"name": name, "title": name, "licence": ""} | {
        key: draft.fields[key] for key in order if key in draft.fields
    }
    comments = [
        "drafted by `medpeft prepare --init-card`; look it through, above all classes, groups and modality",
        "licence: the terms under which you may use the pictures",
        *(f"{key}: {' '.join(text.split())}" for key, text in draft.comments.items()),
    ]
    return "".join(f"# {line}\n" for line in comments) + dump_values(fields)
