"""Find files below the source, and never outside it."""

import filecmp
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from PIL import Image

from medpeft_cli.data.decode import decode_image, dicom_tag, is_dicom, is_picture
from medpeft_cli.data.forms import Files, Folders
from medpeft_cli.data.layouts.sample import Sample
from medpeft_cli.errors import DataError

TABLE_ENDING = re.compile(r"\.(csv|tsv|tab)(\.gz)?$")
SPELLED = (".csv", ".csv.gz", ".tsv", ".tab", "")


def read_file(source: Path, sample: Sample) -> Image.Image:
    """Decode the picture of a sample; see `decode_image`."""
    return decode_image(source / sample.file)


def walk(folder: Path, source: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names.

    Raises:
        DataError: at a link to a folder, to a file outside the source, or to nothing.
    """
    yield from _walk(stay_inside(folder, source), source)


def _walk(folder: Path, source: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_symlink() and (entry.is_dir() or not path.exists()):
            raise _link(path)
        if entry.is_symlink():
            stay_inside(path, source)
        if entry.is_dir():
            yield from _walk(path, source)
        elif entry.is_file():
            yield path


def stay_inside(path: Path, source: Path) -> Path:
    """Return the path.

    Raises:
        DataError: if it is a link, or lies behind one, that leads out of the source.
    """
    if not path.resolve().is_relative_to(source.resolve()):
        raise _link(path)
    return path


def _link(path: Path) -> DataError:
    gone = "" if path.exists() else ", which is not there"
    return DataError(f"{path}: a link to {path.resolve()}{gone}", "put the files themselves into the source folder")


def inside(name: str, place: str) -> str:
    """Return a path that a table names, posix.

    Raises:
        DataError: if it leads out of the source.
    """
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or ".." in windows.parts:
        raise DataError(f"{place}: {name!r} leads out of the source folder", "paths must lie below --source")
    return windows.as_posix()


def split_folders(source: Path, layout: Folders) -> tuple[Path, dict[Path, str | None]]:
    """Return the folder of the layout, and each folder in it to look through → its split; None where there are none.

    Raises:
        DataError: if a split folder is missing.
    """
    base = source / layout.folder if (source / layout.folder).is_dir() else source
    tops: dict[Path, str | None] = {base / folder: split for split, folder in layout.splits.items()}
    for top, split in tops.items():
        if not top.is_dir():
            raise DataError(f"{top}: no such folder, wanted the {split} split", "see layout.splits of the card")
    return base, tops or {base: None}


def group_of(path: Path, layout: Files, default: str) -> str:
    """Return the group that the file name or the DICOM header tells, otherwise the default."""
    if layout.group_pattern and (match := re.search(layout.group_pattern, path.name)):
        return match[1] or default
    if layout.group_tag and is_dicom(path):
        return dicom_tag(path, layout.group_tag) or default
    return default


def find_table(source: Path, name: str) -> Path | None:
    """Return a table of the source by its path, or else by its name anywhere below; None where there is none.

    The same name with another ending of a table is found, too: servers and browsers change it.

    Raises:
        DataError: if there are several of that name, or it is a link that leads out of the source.
    """
    stem = TABLE_ENDING.sub("", name)
    spelled = [source / name, *(source / (stem + ending) for ending in SPELLED if stem != name)]
    if path := next((path for path in spelled if path.is_file()), None):
        return stay_inside(path, source)
    names = {path.name for path in spelled}
    hits = [found for found in walk(source, source) if found.name in names] if source.is_dir() else []
    for other in hits[1:]:
        if not filecmp.cmp(hits[0], other, shallow=False):
            raise DataError(f"{source}: {name} may be {hits[0]} or {other}", "write its folder into the card")
    return stay_inside(hits[0], source) if hits else None


class PictureIndex:
    """Finds the picture that a table names: as a path in each folder, then by its name anywhere below the folders."""

    def __init__(self, source: Path, folders: Sequence[str], extensions: Sequence[str]):
        self.source, self.extensions = source, extensions
        self.folders = [source / name for name in folders if (source / name).is_dir()] or [source]
        self.files: set[str] = set()
        self.by_name: dict[str, list[str]] = {}
        start = len(str(source)) + 1
        for folder in self.folders:
            for path in walk(folder, source):
                if is_picture(path):
                    self.files.add(str(path)[start:])
        for file in sorted(self.files):
            self.by_name.setdefault(file.rpartition("/")[2], []).append(file)

    def find(self, name: str, place: str) -> str | None:
        """Return the file, relative to the source, or None.

        Args:
            name: as the table has it.
            place: table and line, for the message.

        Raises:
            DataError: if the name leads out of the source, or two different files have it.
        """
        posix = inside(name, place)
        names = [posix, *(posix + extension for extension in self.extensions)]
        for folder in (*self.folders, self.source):
            for candidate in names:
                if (file := (folder.relative_to(self.source) / candidate).as_posix()) in self.files:
                    return file
        for candidate in names:
            if hits := self.by_name.get(candidate, []):
                if not all(filecmp.cmp(self.source / hits[0], self.source / hit, shallow=False) for hit in hits[1:]):
                    raise DataError(f"{place}: {name!r} may be {hits[0]} or {hits[1]}", "write the folder too")
                return hits[0]
        return None
