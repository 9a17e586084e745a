"""What was packed, and what is found wrong with it: the same picture twice or under two labels, too few pictures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from medpeft_cli.data.card import SPLITS, Card, names_of
from medpeft_cli.data.duplicates import Thumbs, near_pairs
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.pack import LeftOut
from medpeft_cli.data.splits import join_groups
from medpeft_cli.words import counted

SHOWN = 5  # lines named in a message


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

    def joined(self, pairs: np.ndarray) -> "Pictures":
        """Return the pictures with the groups of each pair, int64 (P, 2), made one."""
        joined = join_groups((self.groups[one], self.groups[other]) for one, other in pairs.tolist())
        return replace(self, groups=[joined.get(group, group) for group in self.groups])


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
            where = "in all" if name == "images" else f"in {name}" if name in SPLITS else f"of class {name!r}"
            lines.append(f"{counted(found[name], 'picture')} {where}, card {card.name!r} expects {wanted:,}")
    return lines


def by_reason(left_out: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return reason and files of what is left out as (file, reason), the most frequent reason first."""
    files: dict[str, list[str]] = {}
    for file, reason in left_out:
        files.setdefault(reason, []).append(file)
    return sorted(files.items(), key=lambda item: -len(item[1]))


def examples(lines: Iterable[str]) -> str:
    """Return the first few lines for a message, each on its own, and a mark if there are more."""
    first = list(islice(lines, SHOWN + 1))
    return "".join(f"\n  {line}" for line in [*first[:SHOWN], *(["…"] if len(first) > SHOWN else [])])


def _first_of_equals(rows: np.ndarray) -> np.ndarray:
    """Return for each picture the number of the first one with the same pixels, int64 (N,)."""
    keys = np.ascontiguousarray(rows["pixels"]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal ones the first comes first
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    origin = np.empty(len(order), dtype=np.int64)
    origin[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return origin
