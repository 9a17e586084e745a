"""The folder of a prepared dataset: who works in it, and how files are put into place."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.data.manifest import write_rows
from medpeft_cli.data.pack import Claims, Pieces
from medpeft_cli.errors import DataError, RunError

TABLES = ("manifest.csv", "duplicates.csv", "leaks.csv", "unreadable.csv")
FILES = (*TABLES, "report.html", "dataset.json")
FORMAT_1 = {"images.bin", "images.bin.partial"}  # of an earlier version
OURS = {*FILES, *(f"{name}.partial" for name in FILES), *FORMAT_1, ".lock", "images"}
IN_USE, PUBLISHING = 0, 1  # bytes of .lock: held by all who work here, and by the one who puts the dataset into place

Table = Mapping[str, Sequence[str]]


@contextmanager
def own_folder(root: Path) -> Iterator[Claims]:
    """Make the folder and say that it is in use; a failure to write becomes a RunError, Ctrl-C says what is kept.

    Raises:
        DataError: if it holds files that are not of a prepared dataset.
        RunError: if it cannot be written.
    """
    lock = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        if foreign := sorted(path.name for path in root.iterdir() if path.name not in OURS):
            raise DataError(
                f"{root}: holds {foreign[0]!r}, which is not part of a prepared dataset", "choose another --root"
            )
        (root / "images").mkdir(exist_ok=True)
        lock = Claims(root / ".lock")
        lock.take(IN_USE, shared=True, wait=True)
        yield lock
    except OSError as error:
        raise RunError(
            f"{root}: cannot be written, {(error.strerror or str(error)).lower()}",
            "free some space, or choose another --root; what is packed is kept, the same command goes on",
        ) from None
    except KeyboardInterrupt:
        console.say(f"{root}: stopped; what is packed is kept, the same command goes on")
        raise
    finally:
        if lock:
            lock.close()


@contextmanager
def only_one(lock: Claims) -> Iterator[None]:
    """Wait until no other process puts a dataset into this folder."""
    lock.take(PUBLISHING, wait=True)
    try:
        yield
    finally:
        lock.give(PUBLISHING)


def publish(
    root: Path,
    lock: Claims,
    pieces: Pieces,
    tables: Mapping[str, Table],
    info: dict,
    write_page: Callable[[Path], None],
) -> None:
    """Put a dataset into place; dataset.json goes last. What belongs to an earlier dataset or start is removed.

    Args:
        root: folder of the dataset.
        lock: of `own_folder`.
        pieces: its store, complete.
        tables: manifest.csv, and those of the others that there are.
        info: dataset.json.
        write_page: writes report.html to the path.
    """
    for path in [root / "images" / f"{name}.bin" for name in pieces.names]:
        _flush(path)
    try:
        for name, table in tables.items():
            write_rows(root / f"{name}.partial", table)
        write_page(root / "report.html.partial")
        (root / "dataset.json.partial").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        # between here and the last rename there is no dataset rather than half of one
        (root / "dataset.json").unlink(missing_ok=True)
        for name in FILES:
            if name in TABLES and name not in tables:
                (root / name).unlink(missing_ok=True)
                continue
            _flush(root / f"{name}.partial")
            (root / f"{name}.partial").replace(root / name)
    finally:
        for path in root.glob("*.partial"):
            path.unlink(missing_ok=True)
    if lock.take(IN_USE):  # nobody else is packing here
        for name in FORMAT_1:
            (root / name).unlink(missing_ok=True)
        ours = {*pieces.names}
        for path in (root / "images").iterdir():
            if path.name.partition(".")[0] not in ours or path.suffix == ".partial":
                path.unlink(missing_ok=True)
        lock.take(IN_USE, shared=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
