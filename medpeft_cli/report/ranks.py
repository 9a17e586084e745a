"""Places among numbers: marks of the best and second best, ranks by a named tie rule, and by how much ranks must differ."""

import math
from collections.abc import Sequence

TIES = {  # names of scipy.stats.rankdata
    "average": "ties get the mean of their places (average ranks)",
    "dense": "ties share a place and the next number gets the next one (dense ranks)",
    "ordinal": "ties are broken by the order of the methods (ordinal ranks)",
}


def ranks(values: Sequence[float], ties: str = "average") -> list[float]:
    """Return ascending ranks from 1, as `scipy.stats.rankdata` with a method of TIES."""
    ordered = sorted(values)
    if ties == "dense":
        places = sorted(set(values))
        return [places.index(value) + 1.0 for value in values]
    if ties == "ordinal":
        return [ordered.index(value) + 1.0 + list(values[:i]).count(value) for i, value in enumerate(values)]
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def marks(values: Sequence[float | None], digits: int, higher_is_better: bool) -> list[str]:
    """Return "best", "second" or "" for each value; values equal to the printed digits share a mark.

    Nothing is marked where there is nothing to compare: one value, or all equal.
    """
    sign = -1 if higher_is_better else 1
    printed = [None if value is None else sign * round(value, digits) for value in values]
    places = sorted({value for value in printed if value is not None})
    if len(places) < 2:
        return [""] * len(printed)
    return ["best" if value == places[0] else "second" if value == places[1] else "" for value in printed]


def critical_difference(methods: int, rows: int) -> float:
    """Return by how much two average ranks must differ to be different at α = 0.05 (Nemenyi; Demšar 2006, JMLR 7, section 3.2.2).

    Args:
        methods: k ≥ 2 that are ranked.
        rows: N ≥ 1 datasets that rank them.
    """
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(0.95, methods, math.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(methods * (methods + 1) / (6 * rows)))
