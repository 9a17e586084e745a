"""Turn a raw download into a prepared dataset: list, decode, check, split, and write it whole or not at all."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medpeft_cli.console import console
from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.checks import assign_splits, drop_conflicts, unexpected
from medpeft_cli.data.layouts import Listing, Sample, list_source
from medpeft_cli.data.manifest import FORMAT, Manifest, dataset_sha256, read_info, read_manifest, split_counts
from medpeft_cli.data.pack import FILES, Packed, Read, own_folder, pack, write_rows
from medpeft_cli.errors import DataError, RecipeError

SHOWN = 5  # files named in a message; dataset.json lists all


def prepare(
    card: Card,
    source: Path,
    root: Path,
    *,
    size: int = 256,
    seed: int | None = None,
    check: bool = False,
    allow_bad: int = 0,
) -> Manifest:
    """Prepare a dataset from its raw files; the originals are only read.

    A dataset that is already prepared from the same files, card, size and seed is left as it is.

    Args:
        card: what the dataset is.
        source: folder of the download (or the .npz itself).
        root: where the prepared dataset goes.
        size: short side of stored pictures in pixels, at most; smaller pictures are not enlarged.
        seed: of the split; None = the card's.
        check: decode and check everything, print what there is, write nothing.
        allow_bad: so many unreadable pictures are left out; one more is an error.

    Returns:
        The dataset; after a check its files do not exist.

    Raises:
        DataError: if the source is not what the card says, pictures are unreadable, or a class cannot be split.
        RecipeError: if size is below 16 pixels.
        RunError: if the dataset cannot be written.
    """
    source, root = Path(source), Path(root)
    if source.is_dir() and root.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{root}: lies inside the source {source}", "choose another --root; the source is never written to"
        )
    try:
        listing = list_source(card, source)
    except OSError as error:
        raise DataError(
            f"{error.filename or source}: cannot be read, {(error.strerror or str(error)).lower()}"
        ) from None
    found = {sample.label for sample in listing.samples}
    if missing := [name for name in card.classes if name not in found]:
        raise DataError(
            f"{source}: class {missing[0]!r} has no picture, wanted at least {len(SPLITS)}",
            "is the download whole? a class that you do not have must leave the card's classes",
        )
    origin = {"source": str(source.resolve()), "source_sha256": _fingerprint(source, listing)}
    if not check and _is_done(root, card, size, seed, allow_bad, origin["source_sha256"]):
        console.say(f"{root}: already prepared, nothing to do")
        return read_manifest(root, card)
    warnings = unexpected(listing.samples, card)
    for line in warnings:
        console.warn(line)
    return write_dataset(
        root,
        card,
        listing.samples,
        listing.read,
        size=size,
        seed=seed,
        left_out=listing.left_out,
        notes=listing.notes,
        allow_bad=allow_bad,
        origin=origin | {"warnings": warnings},
        check=check,
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
) -> Manifest:
    """Decode, check, split and write samples; pictures go to the disk as they come, dataset.json goes last.

    Args:
        root: folder of the dataset; new, empty, or an earlier prepared dataset, which is replaced.
        card: class order and split rule.
        samples: the pictures, with unique ids.
        read: returns uint8 (H, W) or (H, W, 3) of a sample, or raises DataError with the reason.
        size: short side of stored pictures in pixels, at most.
        seed: of the split; None = the card's.
        left_out: (file, reason) of what the layout left out.
        notes: remarks for dataset.json.
        allow_bad: so many unreadable pictures are left out; one more is an error.
        origin: further entries of dataset.json.
        check: write nothing.

    Returns:
        The dataset; after a check its files do not exist.

    Raises:
        DataError: if too many pictures are unreadable, a class cannot be split, or the folder holds something else.
        RecipeError: if size is below 16 pixels.
        RunError: if the dataset cannot be written.
    """
    if size < 16:
        raise RecipeError(f"size: got {size}, wanted at least 16 pixels")
    seed = card.split.seed if seed is None else seed
    samples = list(samples)
    if check:
        with Path(os.devnull).open("wb") as sink:
            info, rows = _build(sink, card, samples, read, size, seed, left_out, notes, allow_bad)
        console.say(summary(info))
        return _manifest(Path(root), card, info | (origin or {}), rows)
    with own_folder(Path(root)) as root:
        with (root / "images.bin.partial").open("wb") as sink:
            info, rows = _build(sink, card, samples, read, size, seed, left_out, notes, allow_bad)
            info |= origin or {}
            sink.flush()
            os.fsync(sink.fileno())
        write_rows(root / "manifest.csv.partial", rows)
        (root / "dataset.json.partial").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        # between here and the last rename there is no dataset rather than half of one
        (root / "dataset.json").unlink(missing_ok=True)
        for name in FILES:
            (root / f"{name}.partial").replace(root / name)
    console.say(summary(info))
    return _manifest(root, card, info, rows)


def _manifest(root: Path, card: Card, info: dict, rows: list[Packed]) -> Manifest:
    samples = [row.sample for row in rows]
    return Manifest(
        root=root,
        card=card.name,
        classes=card.classes,
        ids=[sample.id for sample in samples],
        labels=np.array([card.classes.index(sample.label) for sample in samples], dtype=np.int64),
        splits=np.array([sample.split for sample in samples], dtype="<U5"),
        groups=[sample.group for sample in samples],
        shapes=np.array([row.shape for row in rows], dtype=np.int64),
        offsets=np.array([row.offset for row in rows], dtype=np.int64),
        sha256=info["sha256"],
        info=info,
    )


def summary(info: dict) -> str:
    """Return what a prepared dataset holds and what was left out, as lines for the console."""
    width = max(len(name) for name in (*info["classes"], "all"))
    lines = [
        f"{info['card']}: {info['images']:,} pictures, short side at most {info['size']} px, {info['bytes'] / 1e6:,.1f} MB"
    ]
    lines.append(" ".join([" " * (width + 2), *(f"{split:>8}" for split in SPLITS)]))
    counts = info["counts"]
    lines += [
        f"  {name:{width}} " + " ".join(f"{counts[split][name]:8,}" for split in SPLITS) for name in info["classes"]
    ]
    lines.append(f"  {'all':{width}} " + " ".join(f"{sum(counts[split].values()):8,}" for split in SPLITS))
    lines += [f"note: {note}" for note in info["notes"]]
    reasons = Counter(item["reason"] for item in info["left_out"])
    for reason, count in reasons.most_common():
        files = [item["file"] for item in info["left_out"] if item["reason"] == reason]
        lines.append(f"left out {count:,}: {reason} ({', '.join(files[:2])}{', …' if count > 2 else ''})")
    return "\n".join(lines)


def _build(
    sink: BinaryIO,
    card: Card,
    samples: list[Sample],
    read: Read,
    size: int,
    seed: int,
    left_out: Sequence[tuple[str, str]],
    notes: Sequence[str],
    allow_bad: int,
) -> tuple[dict, list[Packed]]:
    """Write the pixels into `sink`; return dataset.json and the rows of manifest.csv."""
    rows, bad = pack(sink, card.name, samples, read, size)
    if len(bad) > allow_bad:
        raise DataError(
            f"{len(bad):,} of {len(samples):,} pictures cannot be read: "
            + "; ".join(f"{file}: {reason}" for file, reason in bad[:SHOWN])
            + ("; …" if len(bad) > SHOWN else ""),
            f"mend or remove them, or leave them out with --allow-bad {len(bad)}",
        )
    packed = sum(height * width * channels for height, width, channels in (row.shape for row in rows))
    rows, conflicts, copies = drop_conflicts(rows)
    rows, leaks = assign_splits(rows, card, seed)
    notes = list(notes)
    if copies:
        notes.append(f"{copies:,} pictures have the same pixels as another of their class; they share a group")
    unreadable = [(file, f"unreadable: {reason}") for file, reason in bad]
    labels, splits = [row.sample.label for row in rows], [row.sample.split or "" for row in rows]
    hashed = ((row.sample.id, row.sample.label, row.sample.split or "", row.sample.group, row.pixels) for row in rows)
    info = {
        "format": FORMAT,
        "card": card.name,
        "card_sha256": card.sha256,
        "classes": list(card.classes),
        "split": {
            "rule": "official" if card.official else "stratified",
            "fractions": card.split.fractions,
            "seed": seed,
        },
        "size": size,
        "filter": "bicubic, antialiased",
        "images": len(rows),
        "bytes": packed,
        "counts": split_counts(labels, splits, card.classes),
        "notes": notes,
        "left_out": [{"file": file, "reason": reason} for file, reason in [*left_out, *unreadable, *conflicts, *leaks]],
        "unreadable": len(bad),
        "sha256": dataset_sha256(card.classes, hashed),
    }
    return info, rows


def _fingerprint(source: Path, listing: Listing) -> str:
    """Return a hash of what was listed and of size and time of each file, without reading the files."""
    whole = hashlib.sha256()
    stats: dict[str, str] = {}
    for sample in listing.samples:
        file = sample.file.partition("#")[0] if not (source / sample.file).exists() else sample.file
        if file not in stats:
            path = source if source.is_file() else source / file
            stat = path.stat()
            stats[file] = f"{stat.st_size} {stat.st_mtime_ns}"
        whole.update(f"{sample} {stats[file]}\n".encode(errors="surrogateescape"))
    whole.update(json.dumps(sorted(listing.left_out)).encode())
    return whole.hexdigest()


def _is_done(root: Path, card: Card, size: int, seed: int | None, allow_bad: int, fingerprint: str) -> bool:
    info = read_info(root)
    if info is None or info["unreadable"] > allow_bad:
        return False
    found = (info["card_sha256"], info["size"], info["split"]["seed"], info.get("source_sha256"))
    if found != (card.sha256, size, card.split.seed if seed is None else seed, fingerprint):
        return False
    try:
        read_manifest(root, card)
    except DataError:
        return False
    return True
