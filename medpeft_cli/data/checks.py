"""What must hold before training: no picture under two labels, nothing in two splits, every class in every split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medpeft_cli.data.card import SPLITS, Card, names_of
from medpeft_cli.data.duplicates import Thumbs, near_pairs
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.pack import LeftOut
from medpeft_cli.data.splits import join_groups, split_groups, strata_of
from medpeft_cli.errors import DataError
from medpeft_cli.registry import lookup

OnLeak = Literal["move", "drop", "allow"]
ON_LEAK: dict[str, OnLeak] = {"move": "move", "drop": "drop", "allow": "allow"}
SHOWN = 5  # files named in a message


@dataclass(frozen=True)
class Pictures:
    """N pictures that could be read, by column.

    Attributes:
        samples: what the layout said of them.
        rows: what was packed of them, see `pack.ROW`.
        places: int64 (N,), their numbers among all samples of the listing.
        groups: what must not straddle two splits; twins are joined to one.
        splits: str (N,), "" where it is not known yet.
    """

    samples: list[Sample]
    rows: np.ndarray
    places: np.ndarray
    groups: list[str]
    splits: np.ndarray

    def take(self, kept: np.ndarray) -> "Pictures":
        """Return the pictures where `kept` (N,) is True."""
        chosen = np.flatnonzero(kept).tolist()
        samples, groups = [self.samples[i] for i in chosen], [self.groups[i] for i in chosen]
        return Pictures(samples, self.rows[kept], self.places[kept], groups, self.splits[kept])


@dataclass(frozen=True)
class Twins:
    """P pairs of pictures that are the same.

    Attributes:
        pairs: int64 (P, 2), numbers of pictures, the smaller first.
        correlations: float64 (P,), of their detail; 1 where the pixels are equal.
        equal: bool (P,), whether the pixels are equal; otherwise they are near-duplicates.
    """

    pairs: np.ndarray
    correlations: np.ndarray
    equal: np.ndarray

    def take(self, kept: np.ndarray) -> "Twins":
        """Return the pairs of which both pictures stay, in their new numbers; `kept` is bool (pictures,)."""
        number = np.cumsum(kept) - 1
        both = kept[self.pairs].all(axis=1)
        return Twins(number[self.pairs[both]], self.correlations[both], self.equal[both])


@dataclass(frozen=True)
class Leak:
    """A picture that is also in a split more protected than its own (test before val before train).

    Attributes:
        picture: its number.
        other: number of the picture there.
        kind: the group they share by name ("patient"), "pixels", or "near".
        correlation: of near-duplicates.
    """

    picture: int
    other: int
    kind: str
    correlation: float = 1.0


def leak_choice(name: str | None) -> OnLeak | None:
    """Return the value of --on-leak.

    Raises:
        RecipeError: for another word.
    """
    return None if name is None else lookup("choice for --on-leak", ON_LEAK, name)


def drop_conflicts(pictures: Pictures) -> tuple[Pictures, LeftOut]:
    """Leave out every picture whose pixels occur under two labels.

    Returns:
        pictures that stay, (file, reason) of the others.
    """
    origin = _first_of_equals(pictures.rows)
    labels: dict[int, set[str]] = {}  # of pictures that occur more than once
    for later in np.flatnonzero(origin != np.arange(len(origin))).tolist():
        first = int(origin[later])
        labels.setdefault(first, {pictures.samples[first].label}).add(pictures.samples[later].label)
    conflicts = [first for first, names in labels.items() if len(names) > 1]
    conflict = np.isin(origin, conflicts)
    left_out = [
        (pictures.samples[i].file, f"identical pixels under {' and '.join(map(repr, sorted(labels[int(origin[i])])))}")
        for i in np.flatnonzero(conflict).tolist()
    ]
    return pictures.take(~conflict), left_out


def find_twins(pictures: Pictures, thumbs: Thumbs) -> Twins:
    """Find equal pictures, each paired with the first of its kind, and near-duplicates among the different ones.

    Args:
        pictures: where to look.
        thumbs: returns the thumbnails of ascending places, uint8 (M, 32, 32).
    """
    origin = _first_of_equals(pictures.rows)
    later = np.flatnonzero(origin != np.arange(len(origin)))
    unique = np.flatnonzero(origin == np.arange(len(origin)))
    near, correlations = near_pairs(
        pictures.rows["hash"][unique], lambda chosen: thumbs(pictures.places[unique[chosen]])
    )
    pairs = np.concatenate([np.stack([origin[later], later], axis=1), unique[near]])
    equal = np.arange(len(pairs)) < len(later)
    return Twins(pairs, np.concatenate([np.ones(len(later)), correlations]), equal)


def divide(
    pictures: Pictures, twins: Twins, leaks: Sequence[Leak], card: Card, seed: int, on_leak: OnLeak | None
) -> tuple[Pictures, np.ndarray]:
    """Give each picture its split: the official one, or a stratified group-safe one.

    Groups that hold twins are joined, and a joined group never straddles two splits. A split of our own is drawn with the
    joined groups, so it cannot leak; "allow" joins equal pictures only. An official split may leak: then "move" moves the
    whole joined group to its most protected split, "drop" leaves out its pictures in the less protected ones, "allow" leaves
    it as it is. A split that the source lacks is taken from train, never from test.

    Args:
        pictures: with the official split, where it is used.
        twins: equal pictures and near-duplicates among them.
        leaks: of the official split, see `find_leaks`; something has been decided about them.
        card: split rule.
        seed: of the drawing.
        on_leak: what to do with leaks.

    Returns:
        the pictures with their splits and groups, those that are left out still among them; which stay, bool (N,).

    Raises:
        DataError: if a class would be missing from a split.
    """
    left = {name for sample in pictures.samples for name in names_of(sample.label, card.task)}
    for name in card.classes if card.task != "text" else ():
        if name not in left:
            raise DataError(
                f"class {name!r}: no picture is left", "all of them are unreadable, or also under another class"
            )
    joining = twins.equal if on_leak == "allow" else np.ones(len(twins.pairs), dtype=bool)
    if card.official and on_leak == "allow":
        joining = np.zeros(len(twins.pairs), dtype=bool)
    kept = np.ones(len(pictures.samples), dtype=bool)
    if not card.official:
        joined = _joined(pictures, twins.pairs[joining])
        splits = _drawn(joined, card, seed, SPLITS, near_joined=bool((joining & ~twins.equal).any()))
        return replace(joined, splits=splits), kept
    joined = _joined(pictures, twins.pairs[joining])
    splits = pictures.splits.copy()
    for leak in leaks if on_leak in ("move", "drop") else []:
        if on_leak == "move":
            splits[leak.picture] = splits[leak.other]
        else:
            kept[leak.picture] = False
    if missing := [split for split in SPLITS[1:] if split not in splits[kept]]:
        train = kept & (splits == "train")
        splits[train] = _drawn(joined.take(train), card, seed, ("train", *missing))
    if card.task == "classify":
        present = Counter(
            (sample.label, split)
            for sample, split in zip(joined.take(kept).samples, splits[kept].tolist(), strict=True)
        )
        for name in card.classes:
            if absent := [split for split in SPLITS if not present[name, split]]:
                raise DataError(
                    f"class {name!r}: no picture in the official {absent[0]} split, wanted one at least",
                    "split.rule: stratified in the card divides all pictures anew",
                )
    return replace(joined, splits=splits), kept


def find_leaks(pictures: Pictures, twins: Twins, unit: str) -> list[Leak]:
    """Return every picture whose joined group is also in a more protected split, with the picture there that is nearest to it.

    Args:
        pictures: with their splits, and groups as the source has them.
        twins: equal pictures and near-duplicates among them.
        unit: what a group is.
    """
    joined = _joined(pictures, twins.pairs).groups
    guard = np.array([SPLITS.index(split or "train") for split in pictures.splits.tolist()], dtype=np.int64)
    copies = np.arange(len(guard))
    copies[twins.pairs[twins.equal, 1]] = twins.pairs[twins.equal, 0]
    # of equal pictures, of a group as the source has it, of a joined group: one in the most protected split
    same, mates, best = (_most_protected(names, guard) for names in (copies.tolist(), pictures.groups, joined))
    near: dict[int, Leak] = {}
    for (one, other), correlation in zip(
        twins.pairs[~twins.equal].tolist(), twins.correlations[~twins.equal], strict=True
    ):
        low, high = (one, other) if guard[one] < guard[other] else (other, one)
        near.setdefault(low, Leak(low, high, "near", float(correlation)))
    leaks = []
    for i, others in enumerate(zip(same, mates, best, strict=True)):
        if guard[i] == guard[others[-1]]:
            continue
        found = [Leak(i, other, kind) for other, kind in zip(others, ("pixels", unit, "near"), strict=True)]
        found.insert(2, near.get(i, found[-1]))
        leaks.append(next(leak for leak in found if guard[leak.other] == guard[others[-1]]))
    return leaks


def _most_protected(names: Sequence, guard: np.ndarray) -> list[int]:
    """Return for each picture the first of its name in the most protected split that the name is in."""
    table: dict = {}
    for i, name in enumerate(names):
        if guard[table.setdefault(name, i)] < guard[i]:
            table[name] = i
    return [table[name] for name in names]


def count_leaks(leaks: Sequence[Leak]) -> dict[str, int]:
    """Return kind → pictures."""
    return dict(sorted(Counter(leak.kind for leak in leaks).items()))


def unexpected(samples: Sequence[Sample], card: Card) -> list[str]:
    """Return a line for each number of pictures, in all, per class or per official split, that is not what the card expects."""
    found: Counter[str] = Counter({"images": len(samples)})
    for sample in samples:
        found.update(names_of(sample.label, card.task))
        found[sample.split or ""] += 1
    lines = []
    for name, wanted in card.expected.items():
        if name in SPLITS and not card.official:
            continue
        if found[name] != wanted:
            what = {"images": "pictures in all"} | {split: f"pictures in {split}" for split in SPLITS}
            lines.append(
                f"{found[name]:,} {what.get(name, f'pictures of class {name!r}')}, card {card.name!r} expects {wanted:,}"
            )
    return lines


def strata(pictures: Pictures, card: Card, splits: int = len(SPLITS)) -> list[str]:
    """Return the class by which each picture is split."""
    if card.task == "classify":
        return [sample.label for sample in pictures.samples]
    return strata_of([names_of(sample.label, card.task) for sample in pictures.samples], pictures.groups, splits)


def _first_of_equals(rows: np.ndarray) -> np.ndarray:
    """Return for each picture the number of the first one with the same pixels, int64 (N,)."""
    keys = np.ascontiguousarray(rows["pixels"]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal ones the first comes first
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    origin = np.empty(len(order), dtype=np.int64)
    origin[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return origin


def _joined(pictures: Pictures, pairs: np.ndarray) -> Pictures:
    joined = join_groups((pictures.groups[one], pictures.groups[other]) for one, other in pairs.tolist())
    return replace(pictures, groups=[joined.get(group, group) for group in pictures.groups])


def _drawn(pictures: Pictures, card: Card, seed: int, names: Sequence[str], near_joined: bool = False) -> np.ndarray:
    shares = [card.split.fractions[SPLITS.index(split)] for split in names]
    labels = strata(pictures, card, len(names))
    try:
        return split_groups(labels, pictures.groups, shares, seed, names, card.split.group)
    except DataError as error:
        if not near_joined:
            raise
        hint = f"{error.hint}; near-duplicates share a group, --on-leak allow lets them straddle"
        raise DataError(error.message, hint) from None


def undecided(leaks: Sequence[Leak], pictures: Pictures, card: Card, listed: str) -> DataError:
    """Return the error for an official split that leaks; `listed` says where all of it is listed, or is ""."""
    counts = ", ".join(f"{count:,} {called(kind)}" for kind, count in count_leaks(leaks).items())
    named = [
        f"{pictures.samples[leak.picture].file} ({pictures.splits[leak.picture]}) and "
        f"{pictures.samples[leak.other].file} ({pictures.splits[leak.other]}): {called(leak.kind)}"
        for leak in leaks[: SHOWN + 1]
    ]
    return DataError(
        f"{card.name}: {len(leaks):,} pictures of the official split are also in a more protected one: {counts}{listed}:"
        + examples(named),
        "--on-leak drop leaves them out, move moves them there, allow keeps them",
    )


def examples(lines: Sequence[str]) -> str:
    """Return the first few lines for a message, each on its own, and a mark if there are more."""
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *(["…"] if len(lines) > SHOWN else [])])


def called(kind: str) -> str:
    """Return the name of a kind of leak."""
    return {"pixels": "same pixels", "near": "near-duplicate"}.get(kind, f"same {kind}")
