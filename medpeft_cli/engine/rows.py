"""Rows of numbers on disk, found by key: computed once, shared by all runs, kept through a crash."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np

from medpeft_cli.console import console
from medpeft_cli.files import unwritable
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.runs.stop import leave_if_asked, note_progress

KEY = 32  # hex digits of a key
IS_KEY = re.compile(rf"[0-9a-f]{{{KEY}}}")
KEEP_SECONDS = 2.0  # between two moments at which new rows are certain to survive whatever happens


def cache_folder(root: Path) -> Path:
    """Return the folder beside a prepared dataset in which what is computed from it is kept."""
    return root.with_name(f"{root.name}.cache")


class RowStore:
    """An append-only table of rows of one shape and type.

    `rows.bin` holds the rows end to end, `keys.txt` a key a line in the same order. A row counts once its key is written,
    which comes last, so that what a killed process leaves behind is cut off by the next that writes.

    Args:
        folder: made when something is written.
        shape: of one row.
        dtype: of its numbers.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: type[np.floating] = np.float16):
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.shape))
        self.places: dict[str, int] = {}
        self._read_keys()

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those keys that have no row yet, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self.places]

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the rows of some keys, (len(keys), *shape)."""
        table = np.memmap(self.folder / "rows.bin", dtype=self.dtype, mode="r")[
            : len(self.places) * self.row_bytes // self.dtype.itemsize
        ]
        return table.reshape(-1, *self.shape)[[self.places[key] for key in keys]]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that adds rows; waits for another one, on whichever machine, and then knows its rows.

        Raises:
            RunError: if the folder cannot be written or the disk is full.
            Stopped: if a signal asks this process to leave while it waits.
        """
        try:
            with run_lock(self.folder, wait=True):
                self._read_keys()
                for name, size in (("keys.txt", KEY + 1), ("rows.bin", self.row_bytes)):
                    (self.folder / name).touch()
                    os.truncate(self.folder / name, len(self.places) * size)
                self._pending, self._kept_at = [], time.monotonic()
                try:
                    yield
                finally:
                    self._keep()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Append rows, float (len(keys), *shape), under new keys; only inside `writing`. They are kept within seconds."""
        with (self.folder / "rows.bin").open("ab") as file:
            file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self._pending += keys
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._keep()

    def _keep(self) -> None:
        """Make sure that what was added stays: first the rows, then their keys."""
        # a write that fails is not tried again: its half would be in the way
        pending, self._pending = self._pending, []
        if not pending:
            return
        for name, content in (("rows.bin", ""), ("keys.txt", "".join(f"{key}\n" for key in pending))):
            with (self.folder / name).open("a") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        note_progress()
        self.places |= {key: len(self.places) + number for number, key in enumerate(pending)}
        self._kept_at = time.monotonic()

    def fill(
        self, keys: Sequence[str], what: str, compute: Callable[[list[str]], Iterable[tuple[list[str], np.ndarray]]]
    ) -> None:
        """Add the rows that are missing.

        Args:
            keys: all that are needed.
            what: a plural noun, for the progress.
            compute: yields missing keys and their rows, some at a time.
        """
        if not self.missing(keys):
            return
        with self.writing():
            missing = self.missing(keys)  # another process may have been at work
            with console.progress(len(missing), what, what) as advance:
                for some, rows in compute(missing):
                    self.add(some, rows)
                    advance(len(some))
                    leave_if_asked()
        console.say(f"cached    {len(missing):,} {what} in {self.folder}")

    def _read_keys(self) -> None:
        """Take note of every row whose key is whole and whose numbers are there."""
        keys, rows = self.folder / "keys.txt", self.folder / "rows.bin"
        if keys.is_file() and rows.is_file():
            count = min(keys.stat().st_size // (KEY + 1), rows.stat().st_size // self.row_bytes)
            found = takewhile(IS_KEY.fullmatch, keys.read_text().split("\n")[:count])
            self.places = {key: place for place, key in enumerate(found)}
