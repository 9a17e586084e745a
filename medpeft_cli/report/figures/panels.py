"""Which rows of a table a figure of its scores shows, and where."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medpeft_cli.report import text
from medpeft_cli.report.figures.style import label
from medpeft_cli.report.table import Block, Table

PANEL = 2.5  # inches: height of a row of panels


def main_blocks(table: Table) -> list[Block]:
    """Return the blocks of whole training splits; all blocks where there are none of these."""
    whole = [
        block for block in table.blocks
        if any(run.whole for i in block.rows for cell in table.cells[i] for run in (*cell.runs, *cell.others))
    ]  # fmt: skip
    return whole or list(table.blocks)


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
