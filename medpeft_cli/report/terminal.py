"""A report at the terminal: methods downwards, datasets across, as many columns as fit, the rest below."""

import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.table import Block, Cell, Table

MARKS = {"best": "bold green", "second": "underline"}
Column = tuple[str, list[Text]]  # heading and cells

GAP = 2  # between columns: one of padding, one of the box


def terminal(report: Report) -> list[RenderableType]:
    """Return the report as rich renderables; text from data is never read as markup."""
    parts: list[RenderableType] = []
    for table in report.tables:
        parts += ["", Text(text.title(table), style="bold")]
        if shared := text.subtitle(table):
            parts.append(Text(shared))
        for block in table.blocks:
            parts += ["", _Panel(table, block)]
        parts += ["", Text(" ".join(text.protocol(table)), style="dim")]
        parts += _list(text.notes(table, report.revisions))
        if commands := text.commands(table):
            parts += [Text(f"{text.TO_RUN}:"), *_list(commands)]
    left_out = _list(text.leftovers(report.unplaced, report.problems))
    return [*parts, *(["", Text("Left out", style="bold"), *left_out] if left_out else [])]


def print_report(report: Report) -> None:
    """Print the report to stdout, 120 columns wide where that is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for part in terminal(report):
        console.print(part)


def _list(lines: list[str]) -> list[RenderableType]:
    return [_Item(line) for line in lines]


class _Item:
    """A bulleted line, its continuation indented."""

    def __init__(self, line: str):
        self.line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw the item."""
        for i, part in enumerate(Text(self.line, style="yellow").wrap(console, options.max_width - 2)):
            yield Text.assemble("  " if i else "· ", part)


class _Panel:
    """One grid, cut into as many as the console's width asks for. The methods are repeated in each."""

    def __init__(self, table: Table, block: Block):
        self.heading = text.heading(table, block)
        self.fixed: list[Column] = [
            ("Method", [Text(text.column_title(column)) for column in table.columns]),
            ("Parameters", [Text(" ".join(text.parameters(seen))) for seen in block.parameters]),
        ]
        self.moving: list[Column] = [
            (text.clean(table.rows[i][table.across]), [_cell(table, cell) for cell in table.cells[i]])
            for i in block.rows
        ]
        self.moving += [(name, _styled(numbers, marks)) for name, numbers, marks in text.summaries(table, block)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw as many columns side by side as fit."""
        if self.heading:
            yield Text(self.heading, style="italic")
        cuts = [self._cut(options.max_width, most) for most in range(1, len(self.moving) + 1)]
        even = min(cuts, key=len)  # as few grids as possible, of those the first: the most even
        for i, columns in enumerate(even):
            if i:
                yield ""
            yield _grid(columns)

    def _cut(self, width: int, most: int) -> list[list[Column]]:
        """Return columns for each grid: as many as fit the width, at most `most` beside the fixed ones."""
        left = list(self.moving)
        grids: list[list[Column]] = []
        while left:
            fixed = self.fixed[:1] if grids else self.fixed
            shown = [*fixed, left.pop(0)]
            while left and len(shown) - len(fixed) < most and sum(map(_width, [*shown, left[0]])) - 1 <= width:
                shown.append(left.pop(0))
            grids.append(shown)
        return grids


def _width(column: Column) -> int:
    head, cells = column
    return max([Text(head).cell_len, *(cell.cell_len for cell in cells)]) + GAP


def _styled(numbers: Sequence[str], marks: Sequence[str]) -> list[Text]:
    return [Text(number, MARKS.get(mark, "")) for number, mark in zip(numbers, marks, strict=True)]


def _cell(table: Table, cell: Cell) -> Text:
    value = text.value(cell, table.info.digits)
    if cell.mean is None:
        return Text(value, style="dim" if cell.state == "missing" else "yellow")
    rest = filter(None, (text.spread(cell, table.info.digits), text.seeds_shown(table, cell)))
    return Text.assemble((value, MARKS.get(cell.mark, "")), *((f" {part}", "dim") for part in rest))


def _grid(columns: list[Column]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for head, _ in columns:
        grid.add_column(Text(head), overflow="fold")
    for cells in zip(*(cells for _, cells in columns), strict=True):
        grid.add_row(*cells)
    return grid
