"""Divide pictures into train, val and test, and pick subsets: stratified, group-safe, a function of the seed only."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from medpeft_cli.data.card import SPLITS
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return the names in an order that depends on each name and the seed alone.

    They are sorted by a hash, so that neither the order of listing nor a version of numpy's generator matters, and a
    picture that is added or taken away leaves the others' order as it was.
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest())


def join_groups(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join groups that belong together (union-find).

    Args:
        pairs: two groups that must stay in one split.

    Returns:
        group → the name they go by from now on, the first of them in the alphabet; groups in no pair are not in it.
    """
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            parent[group] = group = parent[parent[group]]
        return group

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    return {group: root(group) for group in parent}


def split_groups(
    labels: Sequence[str],
    groups: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    names: Sequence[str] = SPLITS,
    unit: str = "image",
) -> np.ndarray:
    """Divide pictures into splits: no group in two of them, every class in each, every class near its fractions.

    Groups are dealt one by one, the rarest class first, to the split that lacks most of that class. Where each group is one
    picture, each class is within one picture of its fraction.

    Args:
        labels: class per picture.
        groups: group per picture.
        fractions: share of each split; only their ratio matters.
        seed: decides the order of dealing.
        names: splits, one per fraction.
        unit: what a group is, for the message.

    Returns:
        Split per picture, array of str (N,).

    Raises:
        DataError: if a class has fewer groups than there are splits; it names the class.
    """
    shares = np.asarray(fractions, dtype=np.float64) / sum(fractions)
    sizes: dict[str, Counter[str]] = {}  # group → class → pictures
    nothing: Counter[str] = Counter()
    grown: dict[tuple[int, str], Counter[str]] = {}  # groups that hold the same share one counter: a million fit
    for label, group in zip(labels, groups, strict=True):
        before = sizes.get(group, nothing)
        if (step := (id(before), label)) not in grown:
            grown[step] = before + Counter([label])
        sizes[group] = grown[step]
    totals = Counter(labels)
    left = Counter(label for counts in sizes.values() for label in counts)  # class → groups not yet dealt
    for label in sorted(left):
        if left[label] < len(names):
            raise DataError(
                f"{_called(label)}: {left[label]} {unit}{'s' if left[label] > 1 else ''} with {totals[label]} pictures, "
                f"wanted {len(names)} at least, one for each of {', '.join(names)}",
                "add pictures"
                + (", or take the class out of the card (map it to another or ignore it)" if label else ""),
            )
    need = {label: totals[label] * shares for label in totals}  # pictures that each split still wants, may fall below 0
    have = {label: np.zeros(len(names), dtype=np.int64) for label in totals}
    dealt: dict[str, int] = {}
    order = shuffled(sizes, seed)
    for label in sorted(totals, key=lambda name: (totals[name], name)):
        mine = [group for group in order if label in sizes[group] and group not in dealt]
        too_large = totals[label] * shares.min()
        mine.sort(
            key=lambda group: sizes[group][label] <= max(too_large, 1)
        )  # stable: those that only fit train go first
        for group in mine:
            choice = _most_lacking(sizes[group], label, need, have, left)
            dealt[group] = choice
            for member, count in sizes[group].items():
                need[member][choice] -= count
                have[member][choice] += count
                left[member] -= 1
    for label, counts in sorted(have.items()):
        if (counts == 0).any():
            raise DataError(
                f"{_called(label)}: no {unit} is left for {names[int(counts.argmin())]}, the others hold further classes",
                "try another split seed in the card, or larger fractions for val and test",
            )
    return np.array([names[dealt[group]] for group in groups], dtype="<U5")


def _called(label: str) -> str:
    return f"class {label!r}" if label else "pictures without a class"


def _most_lacking(counts: Counter[str], label: str, need: dict, have: dict, left: Counter[str]) -> int:
    """Return the index of the split that gets this group."""
    for member in (label, *sorted(counts)):  # with as few groups left as splits without the class, each gets one
        empty = np.flatnonzero(have[member] == 0)
        if len(empty) and left[member] <= len(empty):
            return int(empty[np.argmax(need[member][empty])])
    return int(np.argmax(need[label]))


def nested_ranks(ids: Sequence[str], strata: Sequence[str], seed: int) -> list[int]:
    """Return the place of each training picture in the order of its class: 1, 2, ….

    The first n of each class are the subset of n pictures a class, so that subsets are stratified and nested.

    Args:
        ids: id per picture of the training split.
        strata: class per picture.
        seed: of the dataset's split: methods and seeds are compared on the same pictures.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for identity, stratum in zip(ids, strata, strict=True):
        members[stratum].append(identity)
    rank = {}
    for mine in members.values():
        rank.update(zip(shuffled(mine, seed_of(seed, "subset")), range(1, len(mine) + 1), strict=True))
    return [rank[identity] for identity in ids]


def strata_of(labels: Sequence[Sequence[str]], groups: Sequence[str], splits: int = len(SPLITS)) -> list[str]:
    """Return what a picture with any number of classes counts as when it is split: the rarest of its classes.

    A class in fewer groups than there are splits cannot be divided; it does not count. Pictures without a class are a
    stratum of their own; a stratum that is too small is joined to the largest.

    Args:
        labels: classes per picture.
        groups: group per picture.
        splits: number of splits.
    """
    holders: dict[str, set[str]] = defaultdict(set)
    for names, group in zip(labels, groups, strict=True):
        for name in names:
            holders[name].add(group)
    size = {name: len(found) for name, found in holders.items() if len(found) >= splits}
    rarest = [min((name for name in names if name in size), key=lambda n: (size[n], n), default="") for names in labels]
    members: dict[str, set[str]] = defaultdict(set)
    for stratum, group in zip(rarest, groups, strict=True):
        members[stratum].add(group)
    largest = max(sorted(members), key=lambda name: len(members[name]), default="")
    return [stratum if len(members[stratum]) >= splits else largest for stratum in rarest]
