"""Decode pictures once into the pieces of a memory-mapped store: resumable, and shared by any number of processes.

A piece is 128 consecutive pictures: `<key>.bin` holds their pixels, `<key>.npy` one row a picture. The key is a hash of what
decides the piece (ids, files, their sizes and times, the target size), so a piece that is there is a piece that is done,
whichever command, process or host made it. Processes claim pieces by locks on bytes of one file, which the kernel frees when
a process dies. A piece is written beside its place and renamed, so where locks do not work, work is only done twice.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import PIL
from PIL import Image

from medpeft_cli.data.decode import as_grey_if_equal, shrink
from medpeft_cli.data.duplicates import SIDE, perceptual_hashes, thumbnail
from medpeft_cli.data.layouts import Sample
from medpeft_cli.errors import DataError

PIECE = 128  # pictures; a constant, so that the store's bytes do not depend on the number of processes
REVISION = 2  # raise it when the same file would be packed to other bytes

# One row a picture. channels 0: unreadable, the reason is in <key>.json. offset: first byte within the piece. kind: of its
# file, as `decode_image` says.
ROW = np.dtype(
    [
        ("height", "<i4"), ("width", "<i4"), ("channels", "<i4"), ("original_height", "<i4"), ("original_width", "<i4"),
        ("offset", "<i8"), ("pixels", "u1", 16), ("kind", "S20"), ("hash", "<u8"), ("thumb", "u1", (SIDE, SIDE)),
    ]
)  # fmt: skip
OURS, OTHERS = 1, 2  # who makes a piece
COMPACT = [name for name in ROW.names or () if name != "thumb"]

Read = Callable[[Sample], np.ndarray | Image.Image]
LeftOut = list[tuple[str, str]]  # (file, reason)


class Pieces:
    """The pieces of one dataset on the way to its store.

    Args:
        folder: of the store.
        samples: the pictures, in the order of the manifest.
        read: returns a sample's picture: uint8 (H, W) or (H, W, 3), or Pillow's L or RGB; or raises DataError.
        size: short side of stored pictures in pixels, at most.
        stamp: returns what changes when the picture of a sample does, such as size and time of its file.
        discard: keep no pixels, only rows (for a check).
    """

    def __init__(
        self,
        folder: Path,
        samples: Sequence[Sample],
        read: Read,
        size: int,
        stamp: Callable[[Sample], str],
        discard: bool = False,
    ):
        self.folder, self.samples, self.read, self.size, self.discard = folder, samples, read, size, discard
        self.names = [self._key(self.members(number), stamp) for number in range(-(-len(samples) // PIECE))]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.names)

    def members(self, number: int) -> Sequence[Sample]:
        """Return the samples of a piece."""
        return self.samples[number * PIECE : (number + 1) * PIECE]

    def _key(self, members: Sequence[Sample], stamp: Callable[[Sample], str]) -> str:
        facts = [REVISION, PIL.__version__, self.size, PIECE, self.discard]
        listed = [*facts, *((sample.id, sample.file, stamp(sample)) for sample in members)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:20]

    def byte(self, number: int) -> int:
        """Return the byte of the claims that stands for a piece."""
        return int(self.names[number][:8], 16)

    def is_done(self, number: int) -> bool:
        """Return whether a piece is there; its rows come last."""
        return (self.folder / f"{self.names[number]}.npy").exists()

    def is_whole(self, number: int) -> bool:
        """Return whether a piece that is there holds the pixels of which its rows tell."""
        try:
            rows, reasons = self.rows(number)
            pixels = np.fromfile(self.folder / f"{self.names[number]}.bin", np.uint8)
        except (OSError, ValueError):
            return False
        shapes = rows[["height", "width", "channels"]].tolist()
        sizes = [height * width * channels for height, width, channels in shapes]
        ends = np.cumsum(sizes).tolist()
        return (
            len(rows) == len(self.members(number))
            and len(reasons) == sum(channels == 0 for _, _, channels in shapes)
            and (self.discard or len(pixels) == sum(sizes))
            and (self.discard or all(
                channels == 0 or digest(pixels[end - size : end], shape) == bytes(row)
                for shape, row, end, size in zip(shapes, rows["pixels"], ends, sizes, strict=True)
                for channels in shape[2:]
            ))
        )  # fmt: skip

    def rows(self, number: int, mapped: bool = False) -> tuple[np.ndarray, dict[int, str]]:
        """Return the rows of a piece, and picture → reason of those that could not be read.

        Raises:
            OSError, ValueError: if it is not there, or damaged.
        """
        base = self.folder / self.names[number]
        rows = np.load(f"{base}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        if rows.dtype != ROW:
            raise ValueError(f"{base}.npy: rows of another kind")
        reasons: dict[int, str] = {}
        if not rows["channels"].all():
            reasons = {int(k): text for k, text in json.loads(Path(f"{base}.json").read_text(encoding="utf-8")).items()}
        return rows, reasons

    def write(self, number: int) -> Iterator[None]:
        """Decode and write one piece; yields after each picture."""
        members = self.members(number)
        rows = np.zeros(len(members), ROW)
        reasons: dict[int, str] = {}
        base = self.folder / self.names[number]
        with _renamed(Path(f"{base}.bin")) as sink:
            offset = 0
            for row, sample in enumerate(members):
                try:
                    picture = self.read(sample)
                except DataError as error:
                    reasons[row] = error.message
                else:
                    image = picture if isinstance(picture, Image.Image) else Image.fromarray(as_grey_if_equal(picture))
                    kind = image.info.get("kind", "").encode()
                    reduced = shrink(image, self.size)
                    thumb = thumbnail(reduced)  # first, while the pixels are in the cache
                    small = np.ascontiguousarray(as_grey_if_equal(np.asarray(reduced)))
                    shape = (*small.shape[:2], 1 if small.ndim == 2 else 3)
                    whole = np.frombuffer(digest(small, shape), np.uint8)
                    rows[row] = (*shape, image.height, image.width, offset, whole, kind, 0, thumb)
                    if not self.discard:
                        sink.write(small.data)
                    offset += small.size
                yield
        rows["hash"] = perceptual_hashes(rows["thumb"])
        if reasons:
            with _renamed(Path(f"{base}.json")) as sink:
                sink.write(json.dumps(reasons).encode())
        with _renamed(Path(f"{base}.npy")) as sink:
            np.save(sink, rows)

    def all_rows(self) -> tuple[np.ndarray, LeftOut]:
        """Return the rows of all pictures without their thumbnails, and (file, reason) of the unreadable ones."""
        found = np.zeros(len(self.samples), np.dtype([(name, ROW[name]) for name in COMPACT]))
        bad: LeftOut = []
        for number in range(len(self)):
            rows, reasons = self.rows(number)
            found[number * PIECE : number * PIECE + len(rows)] = rows[COMPACT]
            members = self.members(number)
            bad += [(members[row].file, reason) for row, reason in sorted(reasons.items())]
        return found, bad

    def thumbs(self, indices: np.ndarray) -> np.ndarray:
        """Return the thumbnails of ascending indices, uint8 (M, 32, 32)."""
        found = np.empty((len(indices), SIDE, SIDE), np.uint8)
        numbers, starts = np.unique(indices // PIECE, return_index=True)
        for number, start, end in zip(numbers.tolist(), starts, [*starts[1:], len(indices)], strict=True):
            rows, _ = self.rows(number, mapped=True)
            found[start:end] = rows["thumb"][indices[start:end] - number * PIECE]
        return found

    def forget(self, process: int | None) -> None:
        """Remove what a killed process of this host had begun."""
        for path in self.folder.glob(f"*.{_mine(process or 0)}"):
            path.unlink(missing_ok=True)

    def sizes(self) -> list[int]:
        """Return the bytes of pixels of each piece."""
        return [(self.folder / f"{name}.bin").stat().st_size for name in self.names]


def digest(pixels: np.ndarray, shape: Sequence[int]) -> bytes:
    """Return 128 bits of the hash of a picture's shape and pixels."""
    whole = hashlib.sha256(str(tuple(shape) if shape[2] == 3 else tuple(shape[:2])).encode())
    whole.update(pixels.data)
    return whole.digest()[:16]


def _mine(process: int) -> str:
    return f"{os.uname().nodename}.{process}.partial"


@contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file of this process beside `path`, which it becomes if the block succeeds."""
    partial = path.with_name(f"{path.name}.{_mine(os.getpid())}")
    try:
        with partial.open("wb") as sink:
            yield sink
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Claims:
    """Locks on single bytes of a file. They go with the process that holds them, however it ends.

    A file system without locks grants every claim.
    """

    def __init__(self, path: Path):
        self._handle = path.open("a+b")

    def take(self, byte: int, shared: bool = False, wait: bool = False) -> bool:
        """Claim a byte; return whether it was granted."""
        try:
            kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
            fcntl.lockf(self._handle, kind, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        return True

    def give(self, byte: int) -> None:
        """Free a byte."""
        with suppress(OSError):
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Free all that this process holds."""
        self._handle.close()


def work(
    pieces: Pieces, kept: Sequence[int], share: tuple[int, int], packed: np.ndarray, maker: np.ndarray
) -> Iterator[None]:
    """Pack pieces until all are there, whoever makes them; yields now and then, at least once a picture.

    Args:
        pieces: what there is to do.
        kept: pieces that were there at the start; this process checks its share of them and makes damaged ones again.
        share: (k, n): this process is the k-th of n; they begin at different places.
        packed: int64 (n,); the k-th place counts the pictures that are packed here.
        maker: int8 (pieces,); OURS or OTHERS for a piece that is made, or about to be.

    Raises:
        OSError: if the store cannot be written.
    """
    claims = Claims(pieces.folder / ".claims")
    try:
        again = set()
        for number in kept[share[0] :: share[1]]:
            if not pieces.is_whole(number):
                again.add(number)
            yield
        first = len(pieces) * share[0] // share[1]
        waiting = dict.fromkeys([*again, *range(first, len(pieces)), *range(first)])
        while waiting:
            before = len(waiting)
            for number in list(waiting):
                if number not in again and pieces.is_done(number):
                    maker[number] = maker[number] or OTHERS
                elif claims.take(pieces.byte(number)):
                    try:
                        if number in again or not pieces.is_done(number):
                            maker[number] = OURS
                            for _ in pieces.write(number):
                                packed[share[0]] += 1
                                yield
                    finally:
                        claims.give(pieces.byte(number))
                    maker[number] = maker[number] or OTHERS
                else:
                    continue
                del waiting[number]
            if len(waiting) == before:
                time.sleep(0.1)  # others hold the rest
            yield
    finally:
        claims.close()
