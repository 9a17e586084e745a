"""A set of pictures to be compared: files of folders, or part of a prepared dataset, always in the order of their content."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medpeft_cli.data.decode import decode_file, is_picture
from medpeft_cli.data.images import ImageStore
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.errors import DataError
from medpeft_cli.files import sha256_file
from medpeft_cli.runs.environment import cores

LISTING = "images.jsonl"  # one line per picture, as `medpeft generate` writes it


@dataclass(frozen=True)
class Pictures:
    """N pictures, sorted by the SHA-256 of their content: the same pictures give the same numbers under any names.

    Attributes:
        names: of each picture, for messages.
        hashes: SHA-256 of each picture's file, or of its pixels in a prepared dataset.
        read: picture by index, uint8 (H, W) grey or (H, W, 3) RGB.
        prompts: of each picture; None = unknown.
    """

    names: list[str]
    hashes: list[str]
    read: Callable[[int], np.ndarray]
    prompts: list[str] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    @property
    def sha256(self) -> str:
        """SHA-256 of the set: of the hashes of its pictures."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()


def folder_pictures(folders: Sequence[Path], prompts: Path | None = None) -> Pictures:
    """Return the pictures of one or several folders (shards), sub-folders included.

    Where a folder holds images.jsonl, its pictures are the `file`s listed there, and each `prompt` is theirs.

    Args:
        folders: where the pictures are.
        prompts: a file of prompts, see `read_prompts`; None = those of images.jsonl, if any.

    Raises:
        DataError: if a folder is missing or holds no picture, a listed file is missing, or a line is damaged.
    """
    found: list[tuple[Path, str | None]] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        listing = folder / LISTING
        files = list(_listed(listing)) if listing.is_file() else [(path, None) for path in _walk(folder)]
        if not files:
            raise DataError(f"{folder}: holds no picture", "wanted .png, .jpg, .dcm, … files, or images.jsonl")
        found += files
    paths = [path for path, _ in found]
    texts = [text for _, text in found] if prompts is None else read_prompts(prompts, paths)
    with ThreadPoolExecutor(cores()) as pool:
        hashes = list(pool.map(_hash, paths))
    known = all(text is not None for text in texts)
    order = sorted(range(len(paths)), key=lambda i: (hashes[i], texts[i] or ""))
    ordered = [paths[i] for i in order]
    return Pictures(
        [str(path) for path in ordered],
        [hashes[i] for i in order],
        partial(_decode, ordered),
        [texts[i] or "" for i in order] if known else None,
    )


def stored_pictures(manifest: Manifest, indices: np.ndarray) -> Pictures:
    """Return pictures of a prepared dataset.

    Args:
        manifest: of the dataset.
        indices: int (N,), which pictures.

    Raises:
        DataError: if there is none.
    """
    if not len(indices):
        raise DataError(f"{manifest.root}: no picture in this split")
    store = ImageStore(manifest)
    with ThreadPoolExecutor(cores()) as pool:
        hashes = list(pool.map(lambda index: _pixel_hash(store.stored(index)), map(int, indices)))
    order = np.argsort(hashes, kind="stable")
    ordered = indices[order].tolist()
    return Pictures(
        [manifest.ids[index] for index in ordered],
        [hashes[i] for i in order],
        lambda i: store.stored(ordered[i]),
    )


def read_prompts(file: Path, pictures: Sequence[Path]) -> list[str]:
    """Return the prompt of each picture.

    Args:
        file: .csv with columns file and prompt, .jsonl with the same keys, or .txt, one prompt per line in the order of the
            file names.
        pictures: paths of the pictures; `file` is a file name, or the end of a path where names repeat.

    Raises:
        DataError: if the file is missing or damaged, has no such column, or leaves a picture without a prompt.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable: {getattr(error, 'strerror', None) or error}") from error
    if file.suffix == ".txt":
        lines = text.splitlines()
        if len(lines) != len(pictures):
            raise DataError(
                f"{file}: {len(lines)} prompts for {len(pictures)} pictures", "or a .csv with columns file, prompt"
            )
        ranks = {index: rank for rank, index in enumerate(sorted(range(len(pictures)), key=lambda i: pictures[i]))}
        return [lines[ranks[index]] for index in range(len(pictures))]
    if file.suffix == ".jsonl":
        rows = [(_field(row, "file", place), _field(row, "prompt", place)) for row, place in _json_lines(file, text)]
    else:
        reader = csv.DictReader(io.StringIO(text))
        if missing := {"file", "prompt"} - set(reader.fieldnames or ()):
            raise DataError(f"{file}:1: no column {min(missing)!r}", "wanted the columns file and prompt")
        rows = [(row["file"] or "", row["prompt"] or "") for row in reader]
    prompts = {Path(name).parts: prompt for name, prompt in rows}
    lengths = sorted({len(parts) for parts in prompts}, reverse=True)
    found = []
    for picture in pictures:
        ends = (prompts.get(picture.parts[-length:]) for length in lengths)
        prompt = next((prompt for prompt in ends if prompt is not None), None)
        if prompt is None:
            raise DataError(f"{file}: no prompt for {picture.name!r}", "each picture needs a line with its file name")
        found.append(prompt)
    return found


def _listed(listing: Path) -> Iterator[tuple[Path, str]]:
    for row, place in _json_lines(listing, listing.read_text(encoding="utf-8")):
        path = listing.parent / _field(row, "file", place)
        if not path.is_file():
            raise DataError(f"{place}: {path.name!r} is not there", "run `medpeft generate` again: it goes on")
        yield path, _field(row, "prompt", place)


def _json_lines(file: Path, text: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            yield json.loads(line), f"{file}:{number}"
        except ValueError as error:
            raise DataError(f"{file}:{number}: not JSON: {error}") from error


def _field(row: Any, key: str, place: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise DataError(f"{place}: no text {key!r}", 'wanted {"file": "….png", "prompt": "…"}')
    return row[key]


def _walk(folder: Path) -> Iterable[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file() and is_picture(path))
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _decode(paths: list[Path], index: int) -> np.ndarray:
    try:
        return decode_file(paths[index])
    except DataError as error:
        raise DataError(
            f"{paths[index]}: not a readable picture: {error.message}",
            "make it again or remove it; a black picture in its place would only falsify the metrics",
        ) from error


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror or error}") from error


def _pixel_hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
