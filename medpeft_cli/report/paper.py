"""The numbers that Dutt et al. (MIDL 2024) print in Tables 2 to 6, beside a table of ours in the same layout.

paper.json has them as printed, ± in percentage points, each table with the rule for ties that gives back its ranks. Its keys
are names of recipes: backbones (whatever timm's tag behind the point is), cards, fractions, methods.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from medpeft_cli.report.records import Run
from medpeft_cli.report.table import Block, Table


@dataclass(frozen=True)
class Number:
    """A printed number: its text, its value, and what is wrong with it, if that is known. Parameters have no value."""

    text: str
    value: float | None = None
    misprint: str = ""


Numbers = list[Number | None]


@dataclass(frozen=True)
class Printed:
    """The printed numbers beside a table, in its own order; None where the paper has none.

    Attributes:
        cells: for each row and column.
        means, ranks, parameters: for each block and column; no mean and no rank unless we have every dataset, or every
            method too, that they are over.
        combined: ranks over all rows.
    """

    cells: list[Numbers]
    means: list[Numbers]
    ranks: list[Numbers]
    parameters: list[Numbers]
    combined: Numbers


def misprints(lines: Iterable[Numbers]) -> list[str]:
    """Return what is known to be wrong with printed numbers, each once."""
    wrong = (number for line in lines for number in line if number and number.misprint)
    return list(dict.fromkeys(f"† {number.text}: {number.misprint}" for number in wrong))


@cache
def tables() -> dict[str, dict[str, Any]]:
    """Return paper.json: table → ties, methods, rows, means, ranks, parameters, misprints."""
    return json.loads(files(__package__).joinpath("paper.json").read_text(encoding="utf-8"))


def ties() -> dict[str, str]:
    """Return the rule for ties of each table's ranks."""
    return {name: table["ties"] for name, table in tables().items()}


def printed(table: Table) -> Printed | None:
    """Return the printed numbers beside a table; None if the paper has none: demo results, or another layout or metric."""
    paper = tables().get(table.spec.name)
    if paper is None or table.demo or table.spec.metric not in ("f1_macro", "fid"):
        return None
    methods = [_method(table, j) for j in range(len(table.columns))]
    names = [_block_name(table, block, paper) for block in table.blocks]

    def numbers(block: str, row: str, values: list[Any] | None) -> Numbers:
        says = {
            misprint["at"][2]: misprint["says"] for misprint in paper["misprints"] if misprint["at"][:2] == [block, row]
        }
        by_method = dict(zip(paper["methods"], values or [], strict=False))
        return [_number(by_method.get(name), row, says.get(name, "")) for name in methods]

    cells: list[Numbers] = [[None] * len(methods) for _ in table.rows]
    whole = []  # blocks with all rows that the paper has, and no others
    for block, name in zip(table.blocks, names, strict=True):
        rows = paper["rows"].get(name, {})
        keys = [_row_name(table, i) for i in block.rows]
        for i, key in zip(block.rows, keys, strict=True):
            cells[i] = numbers(name, key, rows.get(key))
        whole.append(sorted(keys) == sorted(rows))
    same = sorted(methods) == sorted(paper["methods"])  # a rank depends on all methods

    def summary(kind: str, row: str, shown: bool) -> list[Numbers]:
        found = zip(names, whole, strict=True)
        return [numbers(name, row, paper[kind].get(name) if full and shown else None) for name, full in found]

    every = same and all(whole) and sorted(names) == sorted(paper["rows"])
    return Printed(
        cells,
        summary("means", "mean", shown=True),
        summary("ranks", "rank", shown=same),
        [numbers(name, "parameters", paper["parameters"].get(name)) for name in names],
        numbers("together", "rank", paper["ranks"].get("together") if every else None),
    )


def _number(value: Any, row: str, misprint: str) -> Number | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Number(value, None, misprint)
    mean, *sd = value if isinstance(value, list) else [value]
    text = f"{mean:g}" if row == "rank" else f"{mean:.2f}"
    return Number(text + "".join(f" ± {points / 100:.3f}" for points in sd), mean, misprint)


def _runs(table: Table, rows: tuple[int, ...]) -> list[Run]:
    return [run for i in rows for cell in table.cells[i] for run in (*cell.runs, *cell.others)]


def _method(table: Table, j: int) -> str:
    return next(run.method for row in table.cells for run in (*row[j].runs, *row[j].others))


def _block_name(table: Table, block: Block, paper: dict[str, Any]) -> str:
    """Return the paper's name of a block's backbone or pipeline; "" if it has no such one."""
    run = _runs(table, block.rows)[0]
    if run.setting("backbone", "weights") == "random":
        return ""
    name = str(run.setting("pipeline", "name") or run.setting("backbone", "name")).rsplit("/", 1)[-1]
    return next((known for known in paper["rows"] if name == known or name.startswith(f"{known}.")), "")


def _row_name(table: Table, i: int) -> str:
    """Return the paper's name of a row: its card, or of text-to-image its fraction."""
    run = _runs(table, (i,))[0]
    if table.spec.name == "table4":
        return (
            f"{run.share:g}"
            if run.card and run.card.name == "mimic_cxr" and run.setting("data", "k_shot") is None
            else ""
        )
    return run.card.name if run.card else ""
