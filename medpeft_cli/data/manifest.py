"""Read a prepared dataset: manifest.csv (one row a picture), dataset.json (what it is), images.bin (pixels)."""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpeft_cli.data.card import COLUMNS, SPLITS, Card, card_names
from medpeft_cli.data.splits import subset_per_class
from medpeft_cli.errors import DataError

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset of N pictures.

    Attributes:
        root: its folder.
        card: name of its card.
        classes: K class names, in the order of the head.
        ids: N unique ids.
        labels: int64 (N,), 0 … K − 1.
        splits: str (N,), train, val or test.
        groups: N groups; no group is in two splits.
        shapes: int64 (N, 3), stored height and width in pixels, channels 1 or 3.
        offsets: int64 (N,), first byte in images.bin.
        sha256: hash of ids, labels, splits, groups and pixels.
        info: dataset.json.
    """

    root: Path
    card: str
    classes: tuple[str, ...]
    ids: list[str]
    labels: np.ndarray
    splits: np.ndarray
    groups: list[str]
    shapes: np.ndarray
    offsets: np.ndarray
    sha256: str
    info: dict

    def indices(self, split: str) -> np.ndarray:
        """Return the ascending indices of one split, int64."""
        return np.flatnonzero(self.splits == split)

    def training_subset(self, fraction: float, k_shot: int | None, seed: int) -> np.ndarray:
        """Return the ascending indices of a stratified subset of the training split, int64.

        Subsets of one seed are nested: those of a smaller fraction or k lie within those of a larger one. Each class keeps
        at least one picture.

        Raises:
            DataError: if a class has fewer than k_shot training pictures.
        """
        train = self.indices("train")
        if k_shot is None and fraction >= 1:
            return train
        names = [self.ids[i] for i in train]
        labels = [self.classes[self.labels[i]] for i in train]
        chosen = subset_per_class(names, labels, fraction, k_shot, seed)
        return train[[name in chosen for name in names]]

    def counts(self, split: str) -> dict[str, int]:
        """Return class → pictures in one split."""
        counted = np.bincount(self.labels[self.splits == split], minlength=len(self.classes))
        return dict(zip(self.classes, counted.tolist(), strict=True))


def dataset_sha256(classes: Sequence[str], rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Return the hash of a whole dataset.

    Args:
        classes: class names in order.
        rows: (id, label, split, group, hash of the stored pixels) of each picture, in order.
    """
    whole = hashlib.sha256("\0".join(classes).encode(errors="surrogateescape"))
    for row in rows:
        whole.update(("\n" + "\0".join(row)).encode(errors="surrogateescape"))
    return whole.hexdigest()


def read_manifest(root: Path, card: Card) -> Manifest:
    """Read and check a prepared dataset.

    Raises:
        DataError: if it is missing, half written or damaged, or was prepared from another card; the hint is the command.
    """
    root = Path(root)
    command = card.name if card.name in card_names() else "YOUR_CARD.yaml"
    hint = f"run `medpeft prepare {command} --source DIR --root {root}`"
    info = read_info(root)
    if info is None:
        raise DataError(f"{root}: no prepared dataset", hint)
    if info.get("card") != card.name:
        raise DataError(
            f"{root}: holds dataset {info.get('card')!r}, the recipe asks for {card.name!r}", "set data.root"
        )
    if info.get("card_sha256") != card.sha256:
        raise DataError(f"{root}: prepared from another version of card {card.name!r}", hint)
    try:
        manifest = _read_rows(root, card, info)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{root / 'manifest.csv'}: damaged: {' '.join(str(error).split())}", hint) from None
    return manifest


def read_info(root: Path) -> dict | None:
    """Return dataset.json, or None where there is none that is whole and of this format."""
    try:
        info = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) and info.get("format") == FORMAT else None


def _read_rows(root: Path, card: Card, info: dict) -> Manifest:
    with (root / "manifest.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
        reader = csv.reader(handle, strict=True)
        header = next(reader, [])
        cells = [cell for row in reader for cell in row]  # flat: half the time of lists of columns
    if len(cells) % max(len(header), 1):
        raise ValueError(f"a row has not the {len(header)} columns of the header")
    columns = {name: cells[place :: len(header)] for place, name in enumerate(header)}
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"column {missing[0]!r} is missing")
    rows = zip(*(columns[name] for name in ("id", "label", "split", "group", "pixels")), strict=True)
    if len(columns["id"]) != info["images"] or dataset_sha256(card.classes, rows) != info["sha256"]:
        raise ValueError("rows are not those that prepare wrote")
    if (size := (root / "images.bin").stat().st_size) != info["bytes"]:
        raise ValueError(f"images.bin: got {size:,} bytes, wanted {info['bytes']:,}")
    number = {name: index for index, name in enumerate(card.classes)}
    shapes = [np.fromiter(map(int, columns[name]), np.int64) for name in ("height", "width", "channels")]
    return Manifest(
        root=root,
        card=card.name,
        classes=card.classes,
        ids=columns["id"],
        labels=np.fromiter((number[label] for label in columns["label"]), np.int64),
        splits=np.array(columns["split"], dtype="<U5"),
        groups=columns["group"],
        shapes=np.stack(shapes, axis=1),
        offsets=np.fromiter(map(int, columns["offset"]), np.int64),
        sha256=info["sha256"],
        info=info,
    )


def split_counts(labels: Iterable[str], splits: Iterable[str], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return split → class → pictures, for dataset.json."""
    counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    for label, split in zip(labels, splits, strict=True):
        counts[split][label] += 1
    return counts
