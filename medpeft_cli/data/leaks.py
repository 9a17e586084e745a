"""Leakage: pictures that are in two splits, by their group, their pixels, or as near-duplicates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.checks import Pictures, Twins, examples
from medpeft_cli.errors import DataError
from medpeft_cli.registry import lookup
from medpeft_cli.words import counted

OnLeak = Literal["move", "drop", "allow"]
ON_LEAK: dict[str, OnLeak] = {"move": "move", "drop": "drop", "allow": "allow"}


@dataclass(frozen=True)
class Leak:
    """A picture that is also in a split more protected than its own (test before val before train).

    Attributes:
        picture: its number.
        other: number of the picture there.
        kind: the group they share by name ("patient"), "pixels", or "near".
        correlation: of the two, if they are near-duplicates themselves and not by way of a third.
    """

    picture: int
    other: int
    kind: str
    correlation: float | None = None


def leak_choice(name: str | None) -> OnLeak | None:
    """Return the value of --on-leak.

    Raises:
        RecipeError: for another word.
    """
    return None if name is None else lookup("choice for --on-leak", ON_LEAK, name)


def find_leaks(pictures: Pictures, twins: Twins, unit: str) -> list[Leak]:
    """Return every picture whose joined group is also in a more protected split, with the picture there that is nearest to it.

    Args:
        pictures: with their splits.
        twins: equal pictures and near-duplicates among them.
        unit: what a group of the source is.
    """
    guard = [SPLITS.index(split or "train") for split in pictures.splits.tolist()]
    best = _most_protected(pictures.joined(twins.pairs).groups, guard)
    leaking = [i for i, other in enumerate(best) if guard[i] != guard[other]]
    if not leaking:
        return []
    copies = np.arange(len(guard))
    copies[twins.pairs[twins.equal, 1]] = twins.pairs[twins.equal, 0]
    same = _most_protected(copies.tolist(), guard)
    mates = _most_protected([sample.group for sample in pictures.samples], guard)  # groups as the source has them
    has_twin = np.isin(np.arange(len(guard)), twins.pairs)
    near: dict[int, Leak] = {}
    for (one, other), correlation in zip(
        twins.pairs[~twins.equal].tolist(), twins.correlations[~twins.equal], strict=True
    ):
        low, high = (one, other) if guard[one] < guard[other] else (other, one)
        near.setdefault(low, Leak(low, high, "near", float(correlation)))
    leaks = []
    for i in leaking:
        found = [Leak(i, same[i], "pixels"), Leak(i, mates[i], unit)]
        found += [near[i]] if i in near else []
        found += [Leak(i, best[i], "near" if has_twin[i] else unit)]  # by way of others
        leaks.append(next(leak for leak in found if guard[leak.other] == guard[best[i]]))
    return leaks


def _most_protected(names: Sequence, guard: Sequence[int]) -> list[int]:
    """Return for each picture the first of its name in the most protected split that the name is in."""
    table: dict = {}
    for i, name in enumerate(names):
        if guard[table.setdefault(name, i)] < guard[i]:
            table[name] = i
    return [table[name] for name in names]


def count_leaks(leaks: Sequence[Leak]) -> dict[str, int]:
    """Return kind → pictures."""
    return dict(sorted(Counter(leak.kind for leak in leaks).items()))


def undecided(leaks: Sequence[Leak], pictures: Pictures, card: Card, listed: str) -> DataError:
    """Return the error for an official split that leaks; `listed` says where all of it is listed, or is ""."""
    counts = ", ".join(f"{count:,} {called(kind)}" for kind, count in count_leaks(leaks).items())
    named = (
        f"{pictures.samples[leak.picture].file} ({pictures.splits[leak.picture]}) and "
        f"{pictures.samples[leak.other].file} ({pictures.splits[leak.other]}): {called(leak.kind)}"
        for leak in leaks
    )
    return DataError(
        f"{card.name}: {counted(len(leaks), 'picture')} of the official split also in a more protected one: {counts}{listed}:"
        + examples(named),
        "--on-leak drop leaves them out, move moves them there, allow keeps them",
    )


def called(kind: str) -> str:
    """Return the name of a kind of leak."""
    return {"pixels": "same pixels", "near": "near-duplicate"}.get(kind, f"same {kind}")
