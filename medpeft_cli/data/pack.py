"""The files of a prepared dataset: pictures are decoded in threads and packed as they come; other writers are kept out."""

import csv
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from medpeft_cli.console import console
from medpeft_cli.data.card import COLUMNS
from medpeft_cli.data.decode import as_grey_if_equal, shrink
from medpeft_cli.data.layouts import Sample
from medpeft_cli.errors import DataError, RunError

FILES = ("images.bin", "manifest.csv", "dataset.json")  # in the order in which they are put into place
OURS = {*FILES, *(f"{name}.partial" for name in FILES), ".lock"}

Read = Callable[[Sample], np.ndarray]
LeftOut = list[tuple[str, str]]  # (file, reason)
T = TypeVar("T")


@dataclass(frozen=True)
class Packed:
    """One picture in images.bin.

    Attributes:
        sample: what the layout said of it.
        shape: stored height and width in pixels, channels.
        offset: first byte.
        pixels: hash of the stored pixels.
        original: hash of the decoded pixels before they were made smaller: equal means the same picture.
    """

    sample: Sample
    shape: tuple[int, int, int]
    offset: int
    pixels: str
    original: str


def pack(sink: BinaryIO, label: str, samples: list[Sample], read: Read, size: int) -> tuple[list[Packed], LeftOut]:
    """Decode in threads (Pillow works without the interpreter's lock) and write in order; memory stays bounded.

    Args:
        sink: images.bin.
        label: name at the progress bar.
        samples: the pictures.
        read: returns uint8 (H, W) or (H, W, 3), or raises DataError with the reason.
        size: short side of stored pictures in pixels, at most.

    Returns:
        what was written, (file, reason) of what could not be read.
    """

    def decode(sample: Sample) -> tuple[np.ndarray, str, str] | DataError:
        try:
            pixels = as_grey_if_equal(read(sample))
        except DataError as error:
            return error
        small = np.ascontiguousarray(shrink(pixels, size))
        original = _digest(pixels)
        return small, original if small is pixels else _digest(small), original

    rows: list[Packed] = []
    bad: LeftOut = []
    offset = 0
    with console.progress(len(samples), label, "images") as advance:
        for sample, outcome in _in_order(decode, samples):
            advance()
            if isinstance(outcome, DataError):
                bad.append((sample.file, outcome.message))
                continue
            pixels, stored, original = outcome
            height, width, channels = *pixels.shape[:2], 1 if pixels.ndim == 2 else 3
            sink.write(pixels.data)
            rows.append(Packed(sample, (height, width, channels), offset, stored, original))
            offset += pixels.size
    return rows, bad


def _in_order(work: Callable[[Sample], T], samples: list[Sample]) -> Iterator[tuple[Sample, T]]:
    """Yield (sample, work(sample)) in order, a bounded number ahead."""
    threads = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(threads)
    waiting: deque = deque()
    try:
        for sample in samples:
            waiting.append((sample, pool.submit(work, sample)))
            if len(waiting) > 4 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(pixels: np.ndarray) -> str:
    """Return 128 bits of the hash of a picture's shape and pixels, as 32 hex digits."""
    whole = hashlib.sha256(str(pixels.shape).encode())
    whole.update(np.ascontiguousarray(pixels).data)
    return whole.hexdigest()[:32]


@contextmanager
def own_folder(root: Path) -> Iterator[Path]:
    """Make the folder, keep other writers out, and turn a failure to write into a RunError.

    Raises:
        DataError: if it holds files that are not of a prepared dataset.
        RunError: if it cannot be written.
    """
    import fcntl

    try:
        root.mkdir(parents=True, exist_ok=True)
        if foreign := sorted(path.name for path in root.iterdir() if path.name not in OURS):
            raise DataError(
                f"{root}: holds {foreign[0]!r}, which is not part of a prepared dataset", "choose another --root"
            )
        with (root / ".lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield root
            finally:
                for path in root.glob("*.partial"):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{root}: cannot be written, {(error.strerror or str(error)).lower()}",
            "free some space, or choose another --root",
        ) from None


def write_rows(path: Path, rows: list[Packed]) -> None:
    """Write manifest.csv."""
    attributes = sorted({name for row in rows for name in row.sample.attributes})
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*COLUMNS, *attributes])
        for row in rows:
            sample = row.sample
            known = [
                sample.id,
                sample.file,
                sample.label,
                sample.split,
                sample.group,
                *row.shape,
                row.offset,
                row.pixels,
            ]
            writer.writerow([*known, *(sample.attributes.get(name, "") for name in attributes)])
