"""What must hold before training: no picture under two labels, nothing in two splits, every class in every split."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.pack import LeftOut, Packed
from medpeft_cli.data.splits import join_groups, split_groups
from medpeft_cli.errors import DataError


def drop_conflicts(rows: Sequence[Packed]) -> tuple[list[Packed], LeftOut, int]:
    """Leave out every picture that occurs under two labels, and join the groups of equal pictures under one.

    Returns:
        rows that stay, (file, reason) of the others, number of pictures that equal an earlier one of their class.
    """
    same: dict[str, list[Packed]] = defaultdict(list)
    for row in rows:
        same[row.original].append(row)
    left_out: LeftOut = []
    pairs, copies = [], 0
    for twins in same.values():
        labels = sorted({row.sample.label for row in twins})
        if len(labels) > 1:
            reason = f"identical pixels under {' and '.join(map(repr, labels))}"
            left_out += [(row.sample.file, reason) for row in twins]
        else:
            copies += len(twins) - 1
            pairs += [(twins[0].sample.group, row.sample.group) for row in twins[1:]]
    joined = join_groups(pairs)
    dropped = {file for file, _ in left_out}
    kept = [
        replace(row, sample=replace(row.sample, group=joined.get(row.sample.group, row.sample.group)))
        for row in rows
        if row.sample.file not in dropped
    ]
    return kept, left_out, copies


def assign_splits(rows: Sequence[Packed], card: Card, seed: int) -> tuple[list[Packed], LeftOut]:
    """Give each picture its split: the official one, or a stratified group-safe one.

    An official split keeps its test pictures. Where a group (or the same pixels) is in two splits, the copy in train, or in
    val beside test, is left out. A split that the source lacks is taken from train, never from test.

    Raises:
        DataError: if a class would be missing from a split.
    """
    unit = card.split.group
    left = {row.sample.label for row in rows}
    for name in card.classes:
        if name not in left:
            raise DataError(
                f"class {name!r}: no picture is left", "all of them are unreadable, or also under another class"
            )
    if not card.official:
        splits = split_groups(*_labels_and_groups(rows), card.split.fractions, seed, unit=unit)
        return _with_splits(rows, splits), []
    best: dict[str, str] = {}  # group → its most protected split
    for row in rows:
        group, split = row.sample.group, row.sample.split or "train"
        best[group] = max(best.get(group, split), split, key=SPLITS.index)
    kept = [row for row in rows if row.sample.split == best[row.sample.group]]
    left_out = [
        (row.sample.file, f"same {unit} or same pixels in {best[row.sample.group]}")
        for row in rows
        if row.sample.split != best[row.sample.group]
    ]
    splits = np.array([row.sample.split for row in kept], dtype="<U5")
    if missing := [split for split in SPLITS[1:] if split not in splits]:
        train = np.flatnonzero(splits == "train")
        shares = [card.split.fractions[SPLITS.index(split)] for split in ("train", *missing)]
        labels, groups = _labels_and_groups([kept[i] for i in train])
        splits[train] = split_groups(labels, groups, shares, seed, ("train", *missing), unit)
    present = Counter((row.sample.label, str(split)) for row, split in zip(kept, splits, strict=True))
    for name in card.classes:
        if absent := [split for split in SPLITS if not present[name, split]]:
            raise DataError(
                f"class {name!r}: no picture in the official {absent[0]} split, wanted one at least",
                "split.rule: stratified in the card divides all pictures anew",
            )
    return _with_splits(kept, splits), left_out


def unexpected(samples: Sequence[Sample], card: Card) -> list[str]:
    """Return a line for each number of pictures that is not what the card expects."""
    found = Counter(sample.label for sample in samples) | Counter({"images": len(samples)})
    lines = []
    for name, wanted in card.expected.items():
        if found[name] != wanted:
            what = "pictures in all" if name == "images" else f"pictures of class {name!r}"
            lines.append(f"{found[name]:,} {what}, card {card.name!r} expects {wanted:,}")
    return lines


def _labels_and_groups(rows: Sequence[Packed]) -> tuple[list[str], list[str]]:
    return [row.sample.label for row in rows], [row.sample.group for row in rows]


def _with_splits(rows: Sequence[Packed], splits: np.ndarray) -> list[Packed]:
    named = zip(rows, splits, strict=True)
    return [replace(row, sample=replace(row.sample, split=str(split))) for row, split in named]
