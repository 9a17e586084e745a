"""A folder of generated pictures that any number of processes fill: a line of images.jsonl is a picture that is whole."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path, locked, read_json, sha256_file, unwritable, write_json, write_text
from medpeft_cli.runs.stop import note_progress

LISTING, PROTOCOL, SHEET = "images.jsonl", "generation.json", "contact-sheet.png"
SHEET_COLUMNS, SHEET_IMAGES, GAP = 8, 48, 2


@dataclass(frozen=True)
class Job:
    """One picture that is wanted.

    Attributes:
        prompt_index: p, of the prompt where it comes from.
        image_index: k, of the pictures of this prompt.
        prompt: the text.
        seed: of this picture.
    """

    prompt_index: int
    image_index: int
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.prompt_index:06d}-{self.image_index:03d}.png"


class Album:
    """The folder.

    Args:
        folder: made if missing.
        protocol: everything that decides the pictures, JSON-ready; kept in generation.json.

    Raises:
        DataError: if it holds pictures of another protocol.
        RunError: if it cannot be written.
    """

    def __init__(self, folder: Path, protocol: dict[str, Any]):
        self.folder = folder
        with self._alone():
            kept = folder / PROTOCOL
            if not kept.is_file():
                if foreign := sorted(path.name for path in folder.iterdir() if path.name != "lock"):
                    raise DataError(
                        f"{folder}: holds {foreign[0]!r} and no {PROTOCOL}", "choose a new or empty folder with --out"
                    )
                write_json(kept, protocol)
            elif strange := made_otherwise(folder, protocol):
                raise DataError(
                    f"{folder}: holds pictures made with another {', '.join(strange)}",
                    "choose another folder with --out, or delete this one",
                )
            self._write(self._lines())  # without a half-written last line

    def note(self, **facts: Any) -> None:
        """Keep what is known of how the pictures were made, and does not decide them, in generation.json."""
        with self._alone():
            write_json(self.folder / PROTOCOL, read_json(self.folder / PROTOCOL) | facts)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs whose picture is not there, or is not the one that was saved."""
        lines = self._lines()

        def is_there(job: Job) -> bool:
            path = self.folder / job.file
            return job.file in lines and path.is_file() and sha256_file(path) == lines[job.file]["sha256"]

        return [job for job in jobs if not is_there(job)]

    def add(self, job: Job, image: np.ndarray) -> None:
        """Save a picture, uint8 (S, S, 3), and then its line."""
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, format="PNG")
        with atomic_path(self.folder / job.file) as temporary:
            temporary.write_bytes(encoded.getvalue())
        line = {
            "file": job.file,
            "prompt": job.prompt,
            "prompt_index": job.prompt_index,
            "image_index": job.image_index,
            "seed": job.seed,
            "sha256": sha256(encoded.getvalue()).hexdigest(),
        }
        with self._alone(), (self.folder / LISTING).open("ab+") as file:
            if file.seek(0, io.SEEK_END) and (file.seek(-1, io.SEEK_END), file.read())[1] != b"\n":
                file.write(b"\n")  # a process was killed within its line
            file.write(f"{json.dumps(line)}\n".encode())
        note_progress()

    def finish(self, jobs: Sequence[Job]) -> int:
        """Put the lines in order and make the contact sheet, once every picture is listed; return how many are not yet.

        Args:
            jobs: all that are wanted, of all shards.
        """
        with self._alone():
            lines = self._lines()
            if waiting := sum(job.file not in lines for job in jobs):
                return waiting
            self._write({job.file: lines[job.file] for job in jobs})
            for left in self.folder.glob(".*.tmp"):  # by processes that were killed
                left.unlink(missing_ok=True)
        shown = [jobs[number * len(jobs) // SHEET_IMAGES] for number in range(SHEET_IMAGES)]
        shown = jobs if len(jobs) <= SHEET_IMAGES else shown
        images = [np.asarray(Image.open(self.folder / job.file)) for job in shown]
        with atomic_path(self.folder / SHEET) as temporary:
            contact_sheet(images, SHEET_COLUMNS).save(temporary, format="PNG")
        return 0

    def _lines(self) -> dict[str, dict[str, Any]]:
        """Return the lines by file, the later one of two; what is no whole line is left out."""
        listing, found = self.folder / LISTING, {}
        for text in listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else ():
            try:
                line = json.loads(text)
                found[line["file"]] = line
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def _write(self, lines: dict[str, dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines.values())
        listing = self.folder / LISTING
        if not listing.is_file() or listing.read_text(encoding="utf-8", errors="replace") != text:
            write_text(listing, text)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only process that reads and writes the listing."""
        try:
            with locked(self.folder / "lock"):
                yield
        except OSError as error:
            raise unwritable(self.folder, error) from error


def made_otherwise(folder: Path, protocol: dict[str, Any]) -> list[str]:
    """Return the keys in which the pictures of a folder with generation.json were made otherwise than a protocol says.

    Raises:
        DataError: if generation.json is missing or damaged.
    """
    kept = read_json(folder / PROTOCOL)
    return sorted(key for key, value in protocol.items() if kept.get(key) != value)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> Image.Image:
    """Return pictures, uint8 (S, S, 3) each, in rows on white."""
    size = images[0].shape[0] + GAP
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * size - GAP, columns * size - GAP, 3), 255, dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * size, number % columns * size
        sheet[top : top + len(image), left : left + len(image)] = image
    return Image.fromarray(sheet)
