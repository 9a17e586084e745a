"""A table that names pictures, and their labels or texts."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PureWindowsPath

from medpeft_cli.data.card import Card
from medpeft_cli.data.forms import JOINER, Table
from medpeft_cli.data.layouts.files import PictureIndex, find_table, group_of, read_file
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.data.splits import join_groups
from medpeft_cli.data.tables import Row, read_table
from medpeft_cli.data.text import Reader
from medpeft_cli.errors import DataError
from medpeft_cli.registry import nearest
from medpeft_cli.words import counted

# what a column of `label_columns` may hold
PRESENT, UNCERTAIN = ("1", "1.0", "True", "true", "TRUE"), ("-1", "-1.0")
ABSENT = ("0", "0.0", "", "False", "false", "FALSE")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row of the table with what its labels mean.

    Attributes:
        place: table and line, for messages.
        row: the row.
        split: of its table, where there is one table a split.
        classes: classes of the picture; None = the row is left out.
        reason: why it is left out.
        uncertain: classes that a column calls uncertain (-1).
    """

    place: str
    row: Row
    split: str | None
    classes: tuple[str, ...] | None
    reason: str = ""
    uncertain: tuple[str, ...] = ()


def list_table(source: Path, layout: Table, card: Card) -> Listing:
    """List the rows of a table. Rows that name the same picture are one sample.

    Raises:
        DataError: if the table or one of its columns is missing or damaged, a label is unknown, or a path leaves the source.
    """
    index = PictureIndex(source, layout.folders, layout.extensions)
    by_file: dict[str, list[Labelled]] = defaultdict(list)
    left_out: list[tuple[str, str]] = []
    named: set[str | None] = set()
    total, endings = 0, Counter[str]()
    for item in labelled_rows(source, layout, card):
        total += 1
        name = item.row[layout.image]
        file = index.find(name, item.place) if name else None
        named.add(file)
        if file and not file.endswith(PureWindowsPath(name).name):
            endings[Path(file).suffix] += 1
        if file is None:
            left_out.append((f"{name} ({item.place})", "no such picture" if name else "no file name"))
        elif item.classes is None:
            left_out.append((f"{name} ({item.place})", item.reason))
        else:
            by_file[file].append(item)
    tables = ", ".join(layout.files.values()) or str(layout.file)
    left_out += [(file, f"not named in {tables}") for file in sorted(index.files - named)]
    if named <= {None}:
        looked = ", ".join(map(str, index.folders))
        raise DataError(
            f"{source / tables}: none of the {counted(total, 'picture')} it names is there, such as {left_out[0][0]}, looked in {looked}",
            "is --source the folder that holds both the table and the pictures?",
        )
    reader = Reader(layout.sections, layout.marks)
    groups, notes = _groups(source, layout)
    if endings:
        found = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common())
        notes.append(f"rows that name their picture without extension: {found}")
    samples = _samples(source, by_file, layout, card, groups, reader, left_out, notes)
    if layout.text:
        notes += reader.notes()
    return Listing(samples, left_out, notes, partial(read_file, source), reader.facts() if layout.text else {})


def labelled_rows(source: Path, layout: Table, card: Card) -> Iterator[Labelled]:
    """Yield the rows of the table, or of one table a split, with their classes; no picture is looked for.

    Raises:
        DataError: if a table or a column is missing or damaged, or a label is unknown.
    """
    own_group = layout.group if not layout.group_file else None
    wanted = [layout.image, layout.label, *layout.label_columns, layout.text, own_group, layout.split, layout.address]
    columns = [column for column in (*wanted, *layout.attributes.values()) if column]
    for split, file in (layout.files or {None: layout.file}).items():
        path = find_table(source, str(file)) or source / str(file)
        for row in read_table(path, columns):
            place = f"{path.relative_to(source)}:{row.line}"
            classes, reason, uncertain = _classes(row, place, layout, card)
            yield Labelled(place, row, split, classes, reason, uncertain)


def _samples(
    source: Path,
    by_file: dict[str, list[Labelled]],
    layout: Table,
    card: Card,
    group_table: dict[str, str],
    reader: Reader,
    left_out: list[tuple[str, str]],
    notes: list[str],
) -> list[Sample]:
    """Make one sample of all rows of a file; rows that disagree on the class or split are left out."""
    samples, pairs, repeated, other_texts = [], [], 0, 0
    for file, items in by_file.items():
        rows = [item.row for item in items]
        first = rows[0]
        repeated += len(rows) - 1
        name = first[layout.image]
        from_file = group_of(source / file, layout, name)
        own = [row[layout.group] if layout.group and not layout.group_file else "" for row in rows]
        groups = [group or group_table.get(row[layout.image], from_file) for group, row in zip(own, rows, strict=True)]
        splits = {split_of(item, layout) for item in items} if card.official else {None}
        found = [item.classes for item in items]
        if card.task == "classify" and len(set(found)) > 1:
            left_out.append((file, f"rows of {layout.file} disagree on its label"))
            continue
        if len(splits) > 1:
            left_out.append((file, f"rows of {layout.file} disagree on its split"))
            continue
        texts = list(dict.fromkeys(row[layout.text] for row in rows if row[layout.text])) if layout.text else []
        other_texts += len(texts) > 1
        text, _ = reader.read(texts[0]) if texts else ("", "")
        if card.task == "text" and not text:
            left_out.append((file, f"no {' or '.join(layout.sections) or 'text'} in its row" if texts else "no text"))
            continue
        pairs += [(groups[0], group) for group in groups[1:]]
        present = {name for classes in found if classes for name in classes}
        label = JOINER.join(name for name in card.classes if name in present)
        kept = {key: first[column] for key, column in layout.attributes.items()}
        if layout.label_columns and card.task != "classify":
            unsure = {name for item in items for name in item.uncertain} - present
            kept["uncertain"] = JOINER.join(name for name in card.classes if name in unsure)
        samples.append(Sample(name, file, label, groups[0], splits.pop(), kept, text))
    if repeated:
        rows = counted(repeated, "further row")
        notes.append(f"{rows} of {layout.file} for pictures already listed")
    if other_texts:
        notes.append(f"{counted(other_texts, 'picture')} with different texts in several rows; the first is taken")
    joined = join_groups(pairs)
    return [replace(sample, group=joined.get(sample.group, sample.group)) for sample in samples]


def _classes(row: Row, place: str, layout: Table, card: Card) -> tuple[tuple[str, ...] | None, str, tuple[str, ...]]:
    """Return the classes of a row, or None and why it is left out; and the classes it calls uncertain."""
    if layout.label_columns:
        return _of_columns(row, place, layout, card)
    if layout.label is None:
        return (), "", ()
    value = row[layout.label]
    if not value and card.task != "text":
        return None, "no label", ()
    if value in layout.ignore_labels:
        return None, f"label {value!r} is ignored", ()
    parts = [value] if card.task == "classify" else [part.strip() for part in value.split(layout.separator)]
    labels = [_class(part, place, layout, card) for part in parts if part and part not in layout.ignore_labels]
    return tuple(labels), "", ()


def _of_columns(row: Row, place: str, layout: Table, card: Card) -> tuple[tuple[str, ...] | None, str, tuple[str, ...]]:
    present, uncertain = [], []
    for column in layout.label_columns:
        value = row[column]
        if value in PRESENT:
            present.append(layout.labels.get(column, column))
        elif value in UNCERTAIN:
            uncertain.append(layout.labels.get(column, column))
        elif value not in ABSENT:
            raise DataError(f"{place}: {column}: got {value!r}, wanted 1, 0, true, false, -1 (uncertain) or nothing")
    if card.task == "classify" and len(present) != 1:
        if len(present) > 1:
            raise DataError(
                f"{place}: got {' and '.join(present)}, wanted one class", "task: multilabel takes several a picture"
            )
        return None, "no label", ()
    return tuple(present), "", tuple(name for name in card.classes if name in uncertain)


def _class(value: str, place: str, layout: Table, card: Card) -> str:
    label = layout.labels.get(value, value)
    if label not in card.classes:
        known = [*layout.labels, *card.classes]
        guess = nearest(value, known)
        raise DataError(
            f"{place}: {layout.label}: got {value!r}, wanted one of {', '.join(known[:12])}",
            (f"did you mean {guess!r}? " if guess else "") + "the card's labels map it, ignore_labels leaves it out",
        )
    return label


def split_of(item: Labelled, layout: Table) -> str:
    """Return the official split of a row.

    Raises:
        DataError: if it names no split.
    """
    if item.split:
        return item.split
    value = item.row[layout.split or ""]
    if value not in layout.split_names:
        wanted = ", ".join(layout.split_names)
        raise DataError(f"{item.place}: {layout.split}: got {value!r}, wanted one of {wanted}", "see split_names")
    return layout.split_names[value]


def _groups(source: Path, layout: Table) -> tuple[dict[str, str], list[str]]:
    """Return picture → group of the further table, and a note where it is missing."""
    if not (layout.group_file and layout.group):
        return {}, []
    path = find_table(source, layout.group_file)
    if path is None:
        return {}, [f"no {layout.group_file}: pictures of one {layout.group} may be in two splits"]
    rows = read_table(path, [layout.image, layout.group])
    return {row[layout.image]: row[layout.group] for row in rows if row[layout.group]}, []
