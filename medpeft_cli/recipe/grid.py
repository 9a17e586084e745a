"""Expand a grid file: recipes × a matrix of settings, less what is excluded. Every cell is one run."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.identity import run_id
from medpeft_cli.recipe.load import HINT, Reader, leaves, put, read_files, read_overrides, resolve
from medpeft_cli.recipe.problems import check
from medpeft_cli.recipe.schema import Recipe, Strict
from medpeft_cli.recipe.source import (
    Document,
    Problem,
    dotted,
    dump_value,
    nearest_file,
    read_document,
)


class Grid(Strict):
    """One table or figure: every recipe with every combination of the matrix."""

    recipes: list[str] = Field(
        min_length=1, description="recipe files, relative to this file; `{a,b}` stands for each of its words"
    )
    matrix: dict[str, list[Any]] = Field({}, description="field of a recipe, such as train.lr → its values")
    exclude: list[dict[str, Any]] = Field(
        [], description="cells to leave out: field → the value, or a list of the values, that all must have"
    )


class Grids(Strict):
    """Several grids; a run that is in two of them is one run."""

    grids: list[str] = Field(min_length=1, description="grid files, relative to this file")


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        path: recipe file.
        settings: what the matrix and then `--set` set, as that takes it: "train.lr=0.001".
        demo: the embedded default stands in for data and weights.
        recipe: the resolved recipe.
        run: run id, as `recipe.identity.run_id` gives it.
        grids: names of the grid files that it is in, without their suffix.
    """

    path: Path
    settings: tuple[str, ...]
    demo: bool
    recipe: Recipe
    run: str
    grids: tuple[str, ...]

    def run_dir(self, results: Path) -> Path:
        """Return the folder of the run, as `runs.skip.run_directory` does from the recipe."""
        return results / self.path.stem / self.run

    def command(self, results: Path) -> str:
        """Return the command line that does this run alone."""
        words = ["medpeft", "finetune", str(self.path)]
        for setting in self.settings:
            field, _, value = setting.partition("=")
            words += ["--seed", value] if field == "seed" else ["--set", setting]
        words += ["--demo"] if self.demo else []
        words += [] if results == Path("results") else ["--results", str(results)]
        return shlex.join(words)


def expand(path: Path, overrides: Sequence[str] | None = None, *, demo: bool = False) -> list[Cell]:
    """Return the runs of a grid file, each once, in the order of the file: recipes, then the matrix, its last field fastest.

    Args:
        path: a grid, or a file that lists grids.
        overrides: `a.b=value` as `--set` takes them, over every cell; None = none.
        demo: with the bundled data and weights; cells that differ only in what these replace are then one run.

    Raises:
        RecipeError: with one line for every problem of the grid and of its recipes, or if no cell is left.
    """
    read = cache(read_document)  # the bases of all these recipes are a few files
    cells: dict[str, Cell] = {}
    for grid_path in _leaves(path):
        for cell in _cells(grid_path, read, overrides or (), demo):
            seen = cells.get(cell.run, cell)
            cells[cell.run] = replace(seen, grids=tuple(dict.fromkeys((*seen.grids, *cell.grids))))
    return list(cells.values())


def _leaves(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the grid files that a file stands for: itself, or those that it lists."""
    document = read_document(path)
    if "grids" not in document.values:
        yield path
        return
    listed = check(Grids, document.values, document)
    if listed is None or document.problems:
        raise _complaint(document.problems)
    chain = (*above, path)
    for i, below in enumerate(_files(listed.grids, "grids", path, document)):
        if below.resolve() in [p.resolve() for p in chain]:
            circle = " → ".join(map(str, (*chain, below)))
            place = document.places["grids", i] if ("grids", i) in document.places else document.places["grids",]
            raise RecipeError(f"{place}: grids: goes round in a circle, {circle}", "a grid must not list itself")
        yield from _leaves(below, chain)


def _cells(path: Path, read: Reader, overrides: Sequence[str], demo: bool) -> Iterator[Cell]:
    """Yield the cells of one grid."""
    document = read_document(path)
    grid = check(Grid, document.values, document)
    if grid is None or document.problems:
        raise _complaint(document.problems)
    problems: dict[str, None] = {}  # in the order in which they were met, each once
    axes = [_axis(field, document) for field in grid.matrix]
    if document.problems:
        raise _complaint(document.problems)
    excluded = [0] * len(grid.exclude)
    runs: dict[str, Cell] = {}
    for recipe_path in _files(grid.recipes, "recipes", path, document):
        files = read_files(recipe_path, read)
        for values in product(*axes):
            overlay = read_overrides(overrides, _overlay(values, document))
            try:
                recipe, _ = resolve(files, overlay)
                if hits := [i for i, rule in enumerate(grid.exclude) if _matches(recipe, rule)]:
                    for i in hits:
                        excluded[i] += 1
                    continue
                recipe, _ = resolve(files, overlay, demo=True) if demo else (recipe, overlay)
            except RecipeError as error:
                problems |= dict.fromkeys(error.message.splitlines())
                continue
            settings = (*(value.setting for value in values), *overrides)
            cell = Cell(recipe_path, settings, demo, recipe, run_id(recipe), (path.stem,))
            first = runs.setdefault(cell.run, cell)
            if first is not cell and not demo:
                commands = f"{first.command(Path('results'))} and {cell.command(Path('results'))}"
                problems[f"{path}: two cells are one run, {cell.run}: {commands}"] = None
    for i, count in enumerate(excluded):
        if not count and not problems:
            problems[f"{document.places['exclude', i]}: exclude.{i}: no cell of the grid is like this"] = None
    if problems:
        raise RecipeError("\n".join(problems), HINT)
    if not runs:
        raise RecipeError(f"{document.places['exclude',]}: exclude: no cell is left", "leave some of the cells in")
    yield from runs.values()


class _Value(NamedTuple):
    """One value of one field of a matrix, and where it stands."""

    field: str
    position: int
    value: Any
    setting: str  # as --set takes it


def _axis(field: str, document: Document) -> list[_Value]:
    """Return the values of one field of the matrix, after adding what is wrong with it."""
    key = ("matrix", field)
    if not all(field.split(".")):
        document.problems.append(Problem(document.keys[key], dotted(key), "wanted a field such as train.lr"))
    if not (values := document.values["matrix"][field]):
        document.problems.append(Problem(document.places[key], dotted(key), "got [], wanted at least one value"))
    return [_Value(field, i, value, f"{field}={dump_value(value)}") for i, value in enumerate(values)]


def _overlay(values: tuple[_Value, ...], document: Document) -> Document:
    """Return what one cell sets, with its places in the grid file."""
    overlay = Document({})
    for field, position, value, _ in values:
        names, root = tuple(field.split(".")), ("matrix", field, position)
        put(overlay, names, value, document.keys[root[:2]])
        for own, source in ((overlay.places, document.places), (overlay.keys, document.keys)):
            own |= {(*names, *key[3:]): place for key, place in source.items() if key[:3] == root}
    return overlay


def _matches(recipe: Recipe, rule: dict[str, Any]) -> bool:
    values = {dotted(key): value for key, value in leaves(recipe.model_dump(mode="json"))}
    return all(
        field in values and values[field] in (wanted if isinstance(wanted, list) else [wanted])
        for field, wanted in rule.items()
    )


def _files(patterns: list[str], field: str, path: Path, document: Document) -> list[Path]:
    """Return the files that a field names, in order.

    Raises:
        RecipeError: with one line for every file that is not there or named twice.
    """
    found: dict[Path, None] = {}
    problems = []
    for i, pattern in enumerate(patterns):
        place = document.places[field, i]
        for name in _without_braces(pattern):
            file = Path(os.path.normpath(path.parent / name))
            if file in found:
                problems.append(Problem(place, f"{field}.{i}", f"named twice, {str(file)!r}"))
            elif not file.is_file():
                hint = nearest_file(file)
                problems.append(Problem(place, f"{field}.{i}", f"no such file, got {str(file)!r}, {hint}"))
            found[file] = None
    if problems:
        raise _complaint(problems)
    return list(found)


def _without_braces(text: str) -> list[str]:
    """Return the texts that `a_{b,c}` stands for, as a shell has it; the last braces vary fastest."""
    if not (braces := re.search(r"\{([^{}]*)\}", text)):
        return [text]
    before, after = text[: braces.start()], text[braces.end() :]
    return [whole for word in braces[1].split(",") for whole in _without_braces(before + word.strip() + after)]


def _complaint(problems: list[Problem]) -> RecipeError:
    lines = sorted(problems, key=lambda problem: problem.place)
    return RecipeError("\n".join(map(str, lines)), "docs/recipes.md explains grids")
