"""Raw layouts: find the pictures of a source folder, and say of each its label, group and split. Originals are only read."""

import filecmp
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np

from medpeft_cli.data.card import SPLITS, Card, ClassFolders, Files, Layout, Npz, Table
from medpeft_cli.data.decode import decode_file, is_picture
from medpeft_cli.data.splits import join_groups
from medpeft_cli.data.tables import Row, read_table
from medpeft_cli.errors import DataError
from medpeft_cli.registry import nearest


@dataclass(frozen=True)
class Sample:
    """One picture of the source.

    Attributes:
        id: unique name.
        file: path relative to the source, posix; `x.npz#train/17` within an .npz.
        label: class name.
        group: what must not straddle two splits; the id where nothing is known.
        split: official split, or None.
        attributes: further columns of the manifest.
    """

    id: str
    file: str
    label: str
    group: str
    split: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What a layout found: samples sorted by id, (file, reason) of what is left out, notes, and how to read a sample."""

    samples: list[Sample]
    left_out: list[tuple[str, str]]
    notes: list[str]
    read: Callable[[Sample], np.ndarray]


def list_class_folders(source: Path, layout: ClassFolders, card: Card) -> Listing:
    """List a folder per class, below split folders where the layout names them.

    Raises:
        DataError: if a split or class folder is missing or holds no picture, or a link leads out of the source.
    """
    base = source / layout.folder if (source / layout.folder).is_dir() else source
    tops = {folder: split for split, folder in layout.splits.items()} or {"": None}
    samples, left_out = [], []
    for top, split in tops.items():
        if not (base / top).is_dir():
            raise DataError(f"{base / top}: no such folder, wanted the {split} split", "see layout.splits of the card")
        for path in walk(base / top, source):
            inside = path.relative_to(base / top).parts
            label = layout.labels.get(inside[0], inside[0]) if len(inside) > 1 else None
            file = path.relative_to(source).as_posix()
            if not is_picture(path.name):
                left_out.append((file, "not a picture file"))
            elif label not in card.classes:
                left_out.append((file, "not in the folder of a class"))
            elif layout.mask_pattern and re.search(layout.mask_pattern, path.name):
                left_out.append((file, "mask"))
            else:
                name = path.relative_to(base).as_posix()
                samples.append(
                    Sample(name, file, label, group_of(path.name, layout, name), split if card.official else None)
                )
    found = {sample.label for sample in samples}
    if missing := [name for name in card.classes if name not in found]:
        seen = sorted({path.name for top in tops for path in (base / top).iterdir() if path.is_dir()})
        raise DataError(
            f"{base}: class {missing[0]!r} has no picture, wanted a folder of that name with at least {len(SPLITS)}",
            f"folders found: {', '.join(seen[:12]) or 'none'}; is --source the folder that the card means?",
        )
    return Listing(samples, left_out, [], partial(read_file, source))


def list_table(source: Path, layout: Table, card: Card) -> Listing:
    """List the rows of a CSV or TSV file. Rows that name the same picture are one sample.

    Raises:
        DataError: if the table or one of its columns is missing or damaged, a label is unknown, or a path leaves the source.
    """
    table = source / layout.file
    wanted = [layout.image, layout.label, layout.group, layout.split, *layout.attributes.values()]
    rows = read_table(table, [column for column in wanted if column])
    index = _PictureIndex(source, layout)
    by_file: dict[str, list[tuple[Row, str]]] = {}
    left_out: list[tuple[str, str]] = []
    named = set()
    for row in rows:
        place = f"{row[layout.image]} ({layout.file}:{row.line})"
        label = _label(row[layout.label], row.line, layout, card)
        file = index.find(row[layout.image], row.line) if row[layout.image] else None
        named.add(file)
        if file is None:
            left_out.append((place, "no such picture" if row[layout.image] else "no file name"))
        elif label is None:
            left_out.append((place, f"label {row[layout.label]!r} is ignored" if row[layout.label] else "no label"))
        else:
            by_file.setdefault(file, []).append((row, label))
    left_out += [(file, f"not named in {layout.file}") for file in sorted(index.files - named)]
    if not by_file:
        raise DataError(
            f"{table}: none of the {len(rows):,} pictures it names is there, looked in {', '.join(map(str, index.folders))}",
            "is --source the folder that holds both the table and the pictures?",
        )
    samples, repeated = _samples(by_file, layout, card, left_out)
    notes = [f"{repeated:,} further rows of {layout.file} name a picture already listed"] if repeated else []
    return Listing(samples, left_out, notes, partial(read_file, source))


def _samples(
    by_file: dict[str, list[tuple[Row, str]]], layout: Table, card: Card, left_out: list[tuple[str, str]]
) -> tuple[list[Sample], int]:
    """Make one sample of all rows of a file; rows that disagree on the label or split are left out."""
    samples, pairs, repeated = [], [], 0
    for file, rows in by_file.items():
        first, label = rows[0]
        repeated += len(rows) - 1
        name = first[layout.image]
        groups = [
            (row[layout.group] if layout.group else "") or group_of(Path(file).name, layout, name) for row, _ in rows
        ]
        splits = {_split(row, layout) for row, _ in rows} if card.official else {None}
        pairs += [(groups[0], group) for group in groups[1:]]
        if len({name for _, name in rows}) > 1:
            left_out.append((file, f"rows of {layout.file} disagree on its label"))
        elif len(splits) > 1:
            left_out.append((file, f"rows of {layout.file} disagree on its split"))
        else:
            kept = {key: first[column] for key, column in layout.attributes.items()}
            samples.append(Sample(name, file, label, groups[0], splits.pop(), kept))
    joined = join_groups(pairs)
    return [replace(sample, group=joined.get(sample.group, sample.group)) for sample in samples], repeated


def list_npz(source: Path, layout: Npz, card: Card) -> Listing:
    """List an .npz of the MedMNIST kind: `<split>_images` uint8 (N, H, W[, 3]), `<split>_labels` integers (N,) or (N, 1).

    Raises:
        DataError: if the file is missing, damaged or holds Python objects, or arrays and classes do not fit.
    """
    path, file = (source, source.name) if source.is_file() else (source / layout.file, layout.file)
    arrays = _read_npz(path)
    samples, images = [], {}
    for split in SPLITS:
        if f"{split}_images" not in arrays:
            continue
        pixels, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
        place = f"{path}: {split}"
        if labels is None or labels.size != len(pixels) or labels.dtype.kind not in "iu":
            got = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise DataError(f"{place}_labels: got {got}, wanted one whole number per picture of {len(pixels)}")
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
        ):
            raise DataError(
                f"{place}_images: got {pixels.dtype} {pixels.shape}, wanted uint8 (N, H, W) or (N, H, W, 3)"
            )
        numbers = labels.reshape(-1)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(card.classes)):
            got = f"{numbers.min()} to {numbers.max()}"
            raise DataError(f"{place}_labels: got {got}, wanted 0 to {len(card.classes) - 1} for the card's classes")
        images[split] = pixels
        for row, number in enumerate(numbers):
            name = f"{split}/{row}"
            label = card.classes[int(number)]
            samples.append(Sample(name, f"{file}#{name}", label, name, split if card.official else None))
    if not samples:
        raise DataError(f"{path}: got arrays {', '.join(arrays) or 'none'}, wanted train_images and train_labels")

    def read(sample: Sample) -> np.ndarray:
        split, _, row = sample.id.partition("/")
        return images[split][int(row)]

    return Listing(samples, [], [], read)


LAYOUTS: dict[str, Callable[[Path, Layout, Card], Listing]] = {
    "class_folders": list_class_folders,
    "csv": list_table,
    "npz": list_npz,
}


def list_source(card: Card, source: Path) -> Listing:
    """List a source by its card's layout; samples sorted by id.

    Raises:
        DataError: if the source is missing or is not what the card says.
    """
    if not source.exists():
        where = f"{card.title}: {card.url or 'your own data'}"
        raise DataError(f"{source}: no such folder", f"give the downloaded data as --source; {where}")
    if source.is_file() and card.layout.kind != "npz":
        raise DataError(f"{source}: got a file, wanted a folder", "unpack the archive and give its folder as --source")
    listing = LAYOUTS[card.layout.kind](source.resolve(), card.layout, card)
    return replace(listing, samples=sorted(listing.samples, key=lambda sample: sample.id))


def read_file(source: Path, sample: Sample) -> np.ndarray:
    """Decode the picture of a sample; see `decode_file`."""
    return decode_file(source / sample.file)


def walk(folder: Path, source: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names.

    Raises:
        DataError: at a link to a folder, or to a file outside the source.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_symlink() and (entry.is_dir() or not path.resolve().is_relative_to(source)):
            raise DataError(f"{path}: a link to {path.resolve()}", "put the files themselves into the source folder")
        if entry.is_dir():
            yield from walk(path, source)
        elif entry.is_file():
            yield path


def group_of(name: str, layout: Files, default: str) -> str:
    """Return the group that the file name tells, or the default where there is no pattern or it is not found."""
    match = re.search(layout.group_pattern, name) if layout.group_pattern else None
    return (match and match[1]) or default


class _PictureIndex:
    """Finds the picture that a table names: as a path in each folder, then by its name anywhere below the folders."""

    def __init__(self, source: Path, layout: Table):
        self.place = source / layout.file
        self.extensions = layout.extensions
        self.source = source
        self.folders = [source / name for name in layout.folders if (source / name).is_dir()] or [source]
        paths = [path for folder in self.folders for path in walk(folder, source) if is_picture(path.name)]
        self.files = {path.relative_to(source).as_posix() for path in paths}
        self.by_name: dict[str, list[str]] = {}
        for file in sorted(self.files):
            self.by_name.setdefault(file.rpartition("/")[2], []).append(file)

    def find(self, name: str, line: int) -> str | None:
        """Return the file, relative to the source, or None.

        Raises:
            DataError: if the name leads out of the source, or two different files have it.
        """
        windows = PureWindowsPath(name)
        if windows.drive or windows.root or ".." in windows.parts:
            raise DataError(
                f"{self.place}:{line}: {name!r} leads out of the source folder", "paths must lie below --source"
            )
        posix = windows.as_posix()
        names = [posix, *(posix + extension for extension in self.extensions)]
        for folder in (*self.folders, self.source):
            for candidate in names:
                if (file := (folder.relative_to(self.source) / candidate).as_posix()) in self.files:
                    return file
        for candidate in names:
            if hits := self.by_name.get(candidate, []):
                if not all(filecmp.cmp(self.source / hits[0], self.source / hit, shallow=False) for hit in hits[1:]):
                    raise DataError(
                        f"{self.place}:{line}: {name!r} may be {hits[0]} or {hits[1]}", "write the folder too"
                    )
                return hits[0]
        return None


def _label(value: str, line: int, layout: Table, card: Card) -> str | None:
    """Return the class of a label value, or None if it is empty or to be ignored."""
    if not value or value in layout.ignore_labels:
        return None
    label = layout.labels.get(value, value)
    if label not in card.classes:
        known = [*layout.labels, *card.classes]
        guess = nearest(value, known)
        raise DataError(
            f"{layout.file}:{line}: {layout.label}: got {value!r}, wanted one of {', '.join(known[:12])}",
            (f"did you mean {guess!r}? " if guess else "") + "the card's labels map it, ignore_labels leaves it out",
        )
    return label


def _split(row: Row, layout: Table) -> str:
    value = row[layout.split or ""]
    if value not in layout.split_names:
        wanted = ", ".join(layout.split_names)
        raise DataError(
            f"{layout.file}:{row.line}: {layout.split}: got {value!r}, wanted one of {wanted}", "see split_names"
        )
    return layout.split_names[value]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give the folder of the .npz as --source")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name.startswith(tuple(f"{s}_" for s in SPLITS))}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise DataError(f"{path}: cannot read the arrays: {' '.join(str(error).split())}") from None
