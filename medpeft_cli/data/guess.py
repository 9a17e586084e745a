"""Guess from names and values what the columns of a table and the names of files mean."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medpeft_cli.data.card import SPLITS
from medpeft_cli.data.forms import JOINER
from medpeft_cli.data.layouts.files import PictureIndex
from medpeft_cli.data.layouts.table import ABSENT, PRESENT, UNCERTAIN

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
GROUP_COLUMN = re.compile(r"(patient|subject|lesion|case|participant)[ _-]?(id|number|no|name)?|pid", re.I)
SPLIT_COLUMN = re.compile(r"split|fold|partition|set|subset|phase|usage", re.I)
LABEL_COLUMN = re.compile(r"(class|label|target|diagnos|finding|dx$|category|disease|condition|outcome|grade)", re.I)
TEXT_COLUMN = re.compile(r"(report|caption|text|impression|finding|notes?$|description|prompt)", re.I)
KEPT_COLUMN = re.compile(
    r"(age|sex|gender|view|race|ethnicity|site|localization|license|licence|skin_type|fitzpatrick_scale)", re.I
)
GROUP_NAMES = (r"^(?:patient|pat|subject|sub|p)[-_ ]?(\d+)[-_ ]", r"^(\d{2,})_", r"^([A-Za-z]+\d{2,})[-_]")
SAME_NAME = r"^(.+)\.[^.]+$"  # the group is the file's name
PLACEHOLDER = {"", "-", "?", "n/a", "na", "nan", "none", "null", "tbd", "todo", "unknown", "unclear", "undefined"}
MOST_CLASSES = 200
MANY_CLASSES = 0.5  # of the rows: more values than that are names, not classes
FEWEST_WORDS = 3  # of a text
FEWEST_GROUPS = len(SPLITS)  # a class in fewer patients cannot be in every split


def image_column(
    source: Path, values: dict[str, list[str]], pictures: Sequence[str]
) -> tuple[str | None, list[str], list[str], set[str]]:
    """Return the column that names most pictures, the folders and extensions needed to find them, and those found."""
    endings = [ending for ending, _ in Counter(Path(file).suffix for file in pictures).most_common()]
    names = {Path(file).name: file for file in pictures}
    best: tuple[str | None, list[str], set[str]] = (None, [], set())
    for column, cells in values.items():
        for extensions in ([], endings):
            found = {
                names[candidate]
                for cell in dict.fromkeys(cells)
                if cell
                for candidate in (Path(cell).name, *(Path(cell).name + ending for ending in extensions))
                if candidate in names
            }
            if len(found) > len(best[2]):
                best = (column, extensions, found)
    column, extensions, found = best
    if column is None or len(found) < FEWEST_GROUPS:
        return None, [], [], set()
    tops = sorted({file.split("/")[0] for file in found if "/" in file})
    index = PictureIndex(source, tops, extensions)
    really = {file for cell in dict.fromkeys(values[column]) if cell and (file := index.find(cell, column))}
    return column, tops if len(tops) <= 8 else [], extensions, really


def label_column(columns: dict[str, list[str]]) -> str | None:
    """Return the column most like a label: by its name, then the first with few different values."""

    def is_label(cells: Sequence[str]) -> bool:
        counts = Counter(
            part for cell in cells for part in cell.split(JOINER) if part.strip().lower() not in PLACEHOLDER
        )
        enough = sum(count >= FEWEST_GROUPS for count in counts.values())
        return 2 <= enough <= MOST_CLASSES and len(counts) <= MANY_CLASSES * len(cells)

    fitting = [name for name, cells in columns.items() if is_label(cells)]
    named = [name for name in fitting if LABEL_COLUMN.match(name)]
    plain = [name for name in fitting if not KEPT_COLUMN.fullmatch(name)]
    return next(iter([*named, *plain]), None)


def text_column(columns: dict[str, list[str]]) -> str | None:
    """Return the column of long, different texts; by its name, then the longest."""

    def length(name: str) -> float:
        filled = [cell for cell in columns[name] if cell]
        words = sum(cell.count(" ") for cell in filled) / max(len(filled), 1)
        return words if len(set(filled)) > MANY_CLASSES * len(filled) and len(filled) > len(columns[name]) / 4 else 0

    long = sorted((name for name in columns if length(name) >= FEWEST_WORDS), key=lambda name: -length(name))
    return next((name for name in long if TEXT_COLUMN.search(name)), long[0] if long else None)


def is_flag(cells: Sequence[str]) -> bool:
    """Return whether a column holds 1, 0, -1 and nothing only, as a column a class does."""
    found = set(cells)
    return found <= {*PRESENT, *ABSENT, *UNCERTAIN} and bool(found & set(PRESENT))


def are_splits(cells: Sequence[str]) -> bool:
    """Return whether a column names train and at least one other split."""
    return {"train"} < {SPLIT_WORDS.get(cell.lower(), "") for cell in cells if cell} <= set(SPLITS)


def split_in(name: str) -> str | None:
    """Return the split that the name of a file tells, such as my-test.csv."""
    return next((SPLIT_WORDS[word] for word in re.split(r"[\W_]+", name.lower()) if word in SPLIT_WORDS), None)


def group_pattern(names: Sequence[str]) -> str | None:
    """Return a pattern by which several files share a group, or None where names tell nothing."""
    different = set(names)
    for pattern in GROUP_NAMES:
        groups = {group_in(pattern, name) for name in names}
        if None not in groups and 1 < len(groups) < 0.98 * len(different):
            return pattern
    # the same name in two folders is the same picture, unless names are mere numbers within a folder
    telling = all(re.search(r"[A-Za-z].*\d{4}", name) for name in different)
    return SAME_NAME if telling and len(different) < len(names) else None


def unit_of(group: str) -> str:
    """Return what a group is called, by the column or pattern that tells it."""
    if group == SAME_NAME:
        return "file name"
    return next((unit for unit in ("lesion", "case") if unit in group.lower()), "patient")


def group_in(pattern: str | None, name: str) -> str | None:
    """Return the group that a file name tells, or None."""
    match = re.search(pattern, name) if pattern else None
    return match[1] if match else None
