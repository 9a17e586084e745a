"""Which rows and columns of a table a figure of its scores shows, and where."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medpeft_cli.report import text
from medpeft_cli.report.figures.style import label
from medpeft_cli.report.table import Block, Table

PANEL = 2.5  # inches: height of a row of panels
PLACES = 12  # rows, blocks or datasets that are drawn: the figures of a thousand runs stay readable
MOST = 30  # methods in a panel: as many have looks of their own
BEST = 15  # of more methods than that: names and curves do not hide each other

Method = TypeVar("Method")


def main_blocks(table: Table) -> list[Block]:
    """Return the first PLACES of `possible_blocks`."""
    return possible_blocks(table)[:PLACES]


def possible_blocks(table: Table) -> list[Block]:
    """Return the blocks of whole training splits; all blocks where there are none of these."""
    whole = [
        block for block in table.blocks
        if any(run.whole for i in block.rows for cell in table.cells[i] for run in (*cell.runs, *cell.others))
    ]  # fmt: skip
    return whole or list(table.blocks)


def readable(best_first: Sequence[Method]) -> list[Method]:
    """Return all of the methods of a panel, or the first BEST of more than MOST."""
    return list(best_first if len(best_first) <= MOST else best_first[:BEST])


def legible(table: Table, best_first: Sequence[int]) -> Table:
    """Return a table of more than MOST columns with the `readable` ones of some of them, in their own order, and without blocks."""
    if len(table.columns) <= MOST:
        return table
    kept = sorted(readable(best_first))
    cells = tuple(tuple(row[j] for j in kept) for row in table.cells)
    return replace(table, columns=tuple(table.columns[j] for j in kept), cells=cells, blocks=(), combined=None)


def better(table: Table, score: float) -> float:
    """Return a sort key that puts better scores of a table first."""
    return -score if table.info.higher_is_better else score


def panels(figure: Figure, number: int) -> Iterator[Axes]:
    """Yield axes, two side by side; one alone takes the left two thirds."""
    columns = min(number, 2)
    grid = figure.add_gridspec(-(-number // columns), columns)
    for k in range(number):
        yield figure.add_subplot(grid[k // columns, k % columns])


def place(table: Table, row: int, *without: str) -> str:
    """Return what a row stands for, less some dimensions, and less the whole training split."""
    whole = any(run.whole for cell in table.cells[row] for run in (*cell.runs, *cell.others))
    names = [name for name in table.spec.rows if name not in (*without, "fraction" if whole else "")]
    return " · ".join(label(text.label(name, table.rows[row][name]), 40) for name in names)
