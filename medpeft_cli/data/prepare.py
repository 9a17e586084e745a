"""Turn a raw download into a prepared dataset: list, decode, check, split, and write it whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from medpeft_cli.console import console
from medpeft_cli.data.build import Rules, build, nothing_left, summary
from medpeft_cli.data.card import SPLITS, Card, names_of
from medpeft_cli.data.checks import by_reason, unexpected
from medpeft_cli.data.layouts import Sample, list_source
from medpeft_cli.data.leaks import OnLeak
from medpeft_cli.data.manifest import Manifest, manifest_of, read_info, read_manifest
from medpeft_cli.data.pack import Pieces, Read
from medpeft_cli.data.page import write_page
from medpeft_cli.data.store import only_one, own_folder, publish
from medpeft_cli.data.text import token_facts, token_note
from medpeft_cli.data.workers import pack
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import readable
from medpeft_cli.runs.environment import cores

Stamp = Callable[[Sample], str]


def prepare(
    card: Card,
    source: Path,
    root: Path,
    *,
    size: int = 256,
    seed: int | None = None,
    check: bool = False,
    allow_bad: int = 0,
    on_leak: OnLeak | None = None,
    workers: int | None = None,
) -> Manifest:
    """Prepare a dataset from its raw files; the originals are only read.

    A dataset that is already prepared from the same files, card and options is left as it is. After an interruption, or
    with other options for the split, the pictures that are packed are checked and kept. Any number of processes and hosts
    may run the same command at once: they share the work.

    Args:
        card: what the dataset is.
        source: folder of the download (or the .npz itself).
        root: where the prepared dataset goes.
        size: short side of stored pictures in pixels, at most; smaller pictures are not enlarged.
        seed: of the split; None = the card's.
        check: decode and check everything, print what there is, write nothing.
        allow_bad: so many unreadable pictures are left out; one more is an error.
        on_leak: what to do with pictures of an official split that are in two of its splits: "move" the whole group to the
            most protected, "drop" the copies in the others, "allow" them; None = an error. With a split of our own "allow"
            lets near-duplicates straddle.
        workers: processes; None = one a processor.

    Returns:
        The dataset; after a check its files do not exist.

    Raises:
        DataError: if the source is not what the card says, pictures are unreadable, the official split leaks, or a class
            cannot be split.
        RecipeError: if size is below 16 pixels.
        RunError: if the dataset cannot be written.
    """
    source, root = Path(source), Path(root)
    if root.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{root}: lies inside the source {source}", "choose another --root; the source is never written to"
        )
    with readable(source):
        listing = list_source(card, source)
        stamp = _Stamps(source)
        fingerprint = _fingerprint(listing.samples, stamp, listing.left_out)
    found = {name for sample in listing.samples for name in names_of(sample.label, card.task)}
    missing = [name for name in card.classes if name not in found]
    if missing and card.task != "text":  # there classes are a remark beside the text
        reasons = ", ".join(f"{len(files):,}: {reason}" for reason, files in by_reason(listing.left_out)[:3])
        raise DataError(
            f"{source}: class {missing[0]!r} has no picture, wanted at least {len(SPLITS)}"
            + (f"; left out {reasons}" if reasons else ""),
            "is the download whole? a class that you do not have must leave the card's classes",
        )
    warnings = unexpected(listing.samples, card)
    origin = {"source": str(source.resolve()), "source_sha256": fingerprint, "warnings": warnings}
    if not check and (done := _already(root, card, _request(fingerprint, card, size, seed, on_leak), allow_bad)):
        console.say(f"{root}: already prepared, nothing to do")
        return done
    for line in warnings:
        console.warn(line)
    notes = list(listing.notes)
    if listing.texts:
        tokens = token_facts(sample.text for sample in listing.samples if sample.text)
        origin["texts"] = listing.texts | {"tokens": tokens}
        notes.append(token_note(tokens))
    return write_dataset(
        root,
        card,
        listing.samples,
        listing.read,
        size=size,
        seed=seed,
        left_out=listing.left_out,
        notes=notes,
        allow_bad=allow_bad,
        origin=origin,
        check=check,
        on_leak=on_leak,
        workers=workers,
        stamp=stamp,
    )


def write_dataset(
    root: Path,
    card: Card,
    samples: Iterable[Sample],
    read: Read,
    *,
    size: int = 256,
    seed: int | None = None,
    left_out: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    allow_bad: int = 0,
    origin: dict | None = None,
    check: bool = False,
    on_leak: OnLeak | None = None,
    workers: int | None = 1,
    stamp: Stamp | None = None,
) -> Manifest:
    """Pack, check, split and write samples; dataset.json goes last.

    Args:
        root: folder of the dataset; new, empty, or an earlier prepared dataset, which is replaced.
        card: class order and split rule.
        samples: the pictures, with unique ids.
        read: returns a sample's picture: uint8 (H, W) or (H, W, 3), or Pillow's L or RGB; or raises DataError with the
            reason.
        size: short side of stored pictures in pixels, at most.
        seed: of the split; None = the card's.
        left_out: (file, reason) of what the layout left out.
        notes: remarks for dataset.json.
        allow_bad: so many unreadable pictures are left out; one more is an error.
        origin: further entries of dataset.json.
        check: write nothing.
        on_leak: see `prepare`.
        workers: processes; None = one a processor.
        stamp: returns a text that changes when the picture of a sample does; pictures that an earlier start packed with the
            same stamp are kept. None = nothing is kept.

    Returns:
        The dataset; after a check its files do not exist.

    Raises:
        DataError: if there is no picture, too many are unreadable, the official split leaks, a class cannot be split, or the
            folder holds something else.
        RecipeError: if size is below 16 pixels.
        RunError: if the dataset cannot be written.
    """
    if size < 16:
        raise RecipeError(f"size: got {size}, wanted at least 16 pixels")
    samples, root, origin = list(samples), Path(root), origin or {}
    if not samples:
        raise nothing_left(card, left_out)
    rules = Rules(card, size, card.split.seed if seed is None else seed, allow_bad, on_leak)
    if stamp is None:
        once = uuid4().hex
        stamp = lambda sample: once  # noqa: E731
    request = _request(origin.get("source_sha256") or _fingerprint(samples, stamp, left_out), card, size, seed, on_leak)
    if check:
        with TemporaryDirectory(prefix="medpeft-") as folder:
            pieces = Pieces(Path(folder), samples, read, size, stamp, discard=True)
            pack(pieces, card.name, workers or cores())
            built = build(pieces, rules, left_out, notes)
        console.say(summary(built.info))
        return manifest_of(root, card, built.columns, built.info | origin | {"pieces": []})
    with own_folder(root) as lock:
        pieces = Pieces(root / "images", samples, read, size, stamp)
        pack(pieces, card.name, workers or cores())
        with only_one(lock):
            if done := _already(root, card, request, allow_bad):
                console.say(f"{root}: another command has prepared it meanwhile")
                return done
            built = build(pieces, rules, left_out, notes, root)
            info = built.info | origin | {"request": request}
            info["pieces"] = [list(piece) for piece in zip(pieces.names, pieces.sizes(), strict=True)]
            manifest = manifest_of(root, card, built.columns, info)
            page = partial(write_page, card=card, manifest=manifest, pictures=built.pictures, twins=built.twins,
                           leaked=built.leaked, thumbs=pieces.thumbs)  # fmt: skip
            publish(root, lock, pieces, built.tables(), info, page)
    console.say(summary(info) + f"\nreport: {root / 'report.html'}")
    return manifest


class _Stamps:
    """Size and time of the file of each sample; an archive is looked at once."""

    def __init__(self, source: Path):
        self.source = source
        self.archives: dict[Path, str] = {}

    def __call__(self, sample: Sample) -> str:
        with suppress(FileNotFoundError, NotADirectoryError):
            return _size_and_time(self.source / sample.file)
        path = self.source if self.source.is_file() else self.source / sample.file.partition("#")[0]
        if path not in self.archives:
            self.archives[path] = _size_and_time(path)
        return self.archives[path]


def _size_and_time(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _fingerprint(samples: Iterable[Sample], stamp: Stamp, left_out: Iterable[tuple[str, str]]) -> str:
    """Return a hash of what was listed and of the stamp of each picture, such as size and time of its file."""
    whole = hashlib.sha256()
    for sample in samples:
        whole.update(f"{sample} {stamp(sample)}\n".encode(errors="surrogateescape"))
    whole.update(json.dumps(sorted(left_out)).encode())
    return whole.hexdigest()


def _request(fingerprint: str, card: Card, size: int, seed: int | None, on_leak: OnLeak | None) -> str:
    """Return a hash of all that decides a dataset."""
    facts = [fingerprint, card.sha256, size, card.split.seed if seed is None else seed, on_leak]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _already(root: Path, card: Card, request: str, allow_bad: int) -> Manifest | None:
    """Return the dataset if it is there and is what was asked for."""
    info = read_info(root)
    if info is None or info.get("request") != request or info["unreadable"] > allow_bad:
        return None
    try:
        return read_manifest(root, card)
    except DataError:
        return None
