"""Read a prepared dataset: manifest.csv (one row a picture), dataset.json (what it is), images/ (pixels)."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpeft_cli.data.card import COLUMNS, SPLITS, Card, names_of
from medpeft_cli.errors import DataError

FORMAT = 2
# columns under the hash: who is in which split and subset, with which label and text, and every pixel
HASHED = ("id", "label", "split", "group", "pixels", "rank", "stratum", "text")


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset of N pictures.

    Attributes:
        root: its folder.
        card: name of its card.
        classes: K class names, in the order of the head.
        ids: N unique ids.
        labels: int64 (N,), 0 … K − 1; −1 where a picture may have any number of classes.
        splits: str (N,), train, val or test.
        groups: N groups; no group is in two splits, unless dataset.json says so under leakage.
        ranks: int64 (N,), place of a training picture in the order of its stratum, from 1; 0 in val and test.
        strata: int64 (N,), by what splits and subsets are stratified: the label, where a picture has one.
        shapes: int64 (N, 3), stored height and width in pixels, channels 1 or 3.
        offsets: int64 (N,), first byte in the pieces of images/, laid end to end.
        sha256: hash of ids, labels, texts, splits, groups, ranks and pixels.
        info: dataset.json.
        pixels: N hashes of the pictures: 128 bits over shape and pixels as stored.
        texts: N reports or captions, or None where the dataset has none.
        multilabels: uint8 (N, K), 1 = the picture has the class; None where each picture has one.
    """

    root: Path
    card: str
    classes: tuple[str, ...]
    ids: list[str]
    labels: np.ndarray
    splits: np.ndarray
    groups: list[str]
    ranks: np.ndarray
    strata: np.ndarray
    shapes: np.ndarray
    offsets: np.ndarray
    sha256: str
    info: dict
    pixels: list[str]
    texts: list[str] | None = None
    multilabels: np.ndarray | None = None

    def indices(self, split: str) -> np.ndarray:
        """Return the ascending indices of one split, int64."""
        return np.flatnonzero(self.splits == split)

    def training_subset(self, fraction: float, k_shot: int | None) -> np.ndarray:
        """Return the ascending indices of a stratified subset of the training split, int64.

        The order from which subsets are taken is part of the dataset (ranks), so that every method and seed trains on the
        same pictures; a smaller fraction or k lies within a larger one. Each class keeps at least one picture.

        Args:
            fraction: share of each class, 0–1, rounded.
            k_shot: pictures per class instead; None = use fraction.

        Raises:
            DataError: if a class has fewer than k_shot training pictures.
        """
        train = self.indices("train")
        ranks = self.ranks[train]
        strata = self.strata[train]
        _, place, sizes = np.unique(strata, return_inverse=True, return_counts=True)
        if k_shot is not None:
            if k_shot > (fewest := int(sizes.min())):
                smallest = int(strata[place == sizes.argmin()][0])
                name = f"class {self.classes[smallest]!r}" if self.multilabels is None and self.classes else "a stratum"
                raise DataError(
                    f"data.k_shot: got {k_shot}, {name} has {fewest} training pictures", "lower data.k_shot"
                )
            return train[ranks <= k_shot]
        wanted = np.maximum(1, np.rint(fraction * sizes))
        return train[ranks <= wanted[place]]

    def counts(self, split: str) -> dict[str, int]:
        """Return class → pictures in one split; a picture of several classes counts in each."""
        members = self.splits == split
        if self.multilabels is not None:
            counted = self.multilabels[members].sum(axis=0, dtype=np.int64)
        else:
            counted = np.bincount(self.labels[members & (self.labels >= 0)], minlength=len(self.classes))
        return dict(zip(self.classes, counted.tolist(), strict=True))


def dataset_sha256(classes: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """Return the hash of a whole dataset.

    Args:
        classes: class names in order.
        columns: of the manifest, as text in its order: those of HASHED that it has.
    """
    whole = hashlib.sha256("\0".join(classes).encode(errors="surrogateescape"))
    for name in HASHED:
        if name in columns:
            whole.update(f"\n{name}\0".encode())
            whole.update("\0".join(columns[name]).encode(errors="surrogateescape"))
    return whole.hexdigest()


def read_manifest(root: Path, card: Card) -> Manifest:
    """Read and check a prepared dataset.

    Raises:
        DataError: if it is missing, half written or damaged, or was prepared from another card; the hint is the command.
    """
    root = Path(root)
    hint = f"run `medpeft prepare {card.argument} --source DIR --root {root}`"
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
    if len(columns["id"]) != info["images"] or dataset_sha256(card.classes, columns) != info["sha256"]:
        raise ValueError("rows are not those that prepare wrote")
    for name, wanted in info["pieces"]:
        if (size := (root / "images" / f"{name}.bin").stat().st_size) != wanted:
            raise ValueError(f"images/{name}.bin: got {size:,} bytes, wanted {wanted:,}")
    return manifest_of(root, card, columns, info)


def manifest_of(root: Path, card: Card, columns: Mapping[str, Sequence[str]], info: dict) -> Manifest:
    """Return the manifest of a dataset, from the columns of manifest.csv and dataset.json."""
    shapes = [_numbers(columns[name]) for name in ("height", "width", "channels")]
    labels = np.full(len(columns["id"]), -1, dtype=np.int64)
    number = {name: index for index, name in enumerate(card.classes)}
    multilabels = None
    if card.task == "classify":
        labels = np.fromiter(map(number.__getitem__, columns["label"]), np.int64)
    elif card.classes:
        multilabels = np.zeros((len(labels), len(card.classes)), dtype=np.uint8)
        for row, label in enumerate(columns["label"]):
            multilabels[row, [number[name] for name in names_of(label, card.task)]] = 1
    return Manifest(
        root=root,
        card=card.name,
        classes=card.classes,
        ids=list(columns["id"]),
        labels=labels,
        splits=np.array(columns["split"], dtype="<U5"),
        groups=list(columns["group"]),
        ranks=_numbers([rank or "0" for rank in columns["rank"]]),
        strata=labels if "stratum" not in columns else np.unique(columns["stratum"], return_inverse=True)[1],
        shapes=np.stack(shapes, axis=1),
        offsets=_numbers(columns["offset"]),
        sha256=info["sha256"],
        info=info,
        pixels=list(columns["pixels"]),
        texts=list(columns["text"]) if "text" in columns else None,
        multilabels=multilabels,
    )


def _numbers(cells: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(int, cells), np.int64, len(cells))


def write_rows(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Write manifest.csv, or another table of columns of text."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def split_counts(
    labels: Iterable[str], splits: Iterable[str], classes: Sequence[str], task: str
) -> dict[str, dict[str, int]]:
    """Return split → class → pictures, for dataset.json; a picture of several classes counts in each."""
    counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    for label, split in zip(labels, splits, strict=True):
        for name in names_of(label, task):
            counts[split][name] += 1
    return counts
