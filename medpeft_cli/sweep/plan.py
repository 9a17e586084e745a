"""What a grid asks for, what of it is there, and how long the rest will take."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from medpeft_cli.recipe.grid import Cell
from medpeft_cli.recipe.identity import card_name, cell, study_id
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.sweep.status import Standing


class TimeLeft(NamedTuple):
    """Time that the runs of a grid, and the searches that they share, still need on one device."""

    seconds: float
    known: int  # finished runs from which it follows


def time_left(cells: Sequence[Cell], standings: Sequence[Standing]) -> TimeLeft | None:
    """Estimate the time that is left; None if no run is done yet.

    A run takes the mean of the finished runs most like it: of its own cell with other seeds, or else of its backbone and
    training set with other methods, of its backbone and dataset, of its backbone, of all. So does the search of a cell that has no
    finished run yet.
    """
    runs: dict[Hashable, list[float]] = defaultdict(list)
    studies: dict[Hashable, list[float]] = defaultdict(list)
    searched = set()
    kinships = [_kinship(one.recipe) for one in cells]
    for kinship, stands in zip(kinships, standings, strict=True):
        if stands.state == "done":
            for key in kinship:
                runs[key].append(stands.device_seconds)
                if stands.search_seconds and kinship[0] not in searched:
                    studies[key].append(stands.search_seconds)
            searched.add(kinship[0])
    if not runs:
        return None
    total = 0.0
    for one, kinship, stands in zip(cells, kinships, standings, strict=True):
        if stands.state != "done":
            total += _nearest(runs, kinship)
        if one.recipe.search.trials and kinship[0] not in searched:
            searched.add(kinship[0])
            total += _nearest(studies, kinship)
    return TimeLeft(total, len(runs[()]))


def _nearest(known: Mapping[Hashable, Sequence[float]], kinship: Iterable[Hashable]) -> float:
    """Return the mean of what is known of the nearest kin; 0 if nothing is."""
    values = next((known[key] for key in kinship if key in known), [0.0])
    return sum(values) / len(values)


def searches(cells: Iterable[Cell]) -> str:
    """Return how many searches the runs share, as in `296 searches of 8 trials, each shared by the seeds of a run`; "" for none."""
    trials = {study_id(one.recipe): one.recipe.search.trials for one in cells if one.recipe.search.trials}
    if not trials:
        return ""
    budgets = " or ".join(f"{number:,}" for number in sorted(set(trials.values())))
    return f"{len(trials):,} search{'' if len(trials) == 1 else 'es'} of {budgets} trials, each shared by all seeds"


def _kinship(recipe: Recipe) -> list[Hashable]:
    """Return keys that a run shares with fewer or more others, the fewest first."""
    model, data = recipe.pretrained_name, recipe.data
    return [cell(recipe), (model, data.card, data.fraction, data.k_shot), (model, data.card), (model,), ()]


def breakdown(cells: Iterable[Cell]) -> str:
    """Return what a grid is made of, as in `5 datasets × 6 methods × 3 seeds`; with commas where it is no full product."""
    recipes = [one.recipe for one in cells]
    dimensions: dict[str, set[Any]] = {
        "datasets": {card_name(recipe.data.card) for recipe in recipes},
        "models": {recipe.pretrained_name for recipe in recipes},
        "training sets": {(recipe.data.fraction, recipe.data.k_shot) for recipe in recipes},
        "methods": {recipe.method.name for recipe in recipes},
        "seeds": {recipe.seed for recipe in recipes},
    }
    found = {name: len(values) for name, values in dimensions.items() if len(values) > 1}
    sign = " × " if prod(found.values()) == len(recipes) else ", "
    return sign.join(f"{count} {name}" for name, count in found.items())
