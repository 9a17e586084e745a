"""A report at the terminal: methods downwards, datasets across, as many columns as fit, the rest below."""

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.sheet import Section, Sheet, Shown

MARKS = {"best": "bold green", "second": "underline"}
Column = tuple[str, list[Text]]  # heading and cells

COMMANDS = 6  # shown under a table
GAP = 2  # between columns: one of padding, one of the box


def terminal(report: Report) -> list[RenderableType]:
    """Return the report as rich renderables; text from data is never read as markup."""
    parts: list[RenderableType] = []
    for sheet in report.sheets:
        parts += ["", Text(sheet.title, style="bold")]
        if sheet.subtitle:
            parts.append(Text(sheet.subtitle))
        for panel in sheet.turned() if sheet.methods == "columns" else [sheet]:
            for section in panel.sections:
                parts += ["", _Panel(panel, section)]
        parts += ["", Text(" ".join(sheet.caption), style="dim")]
        parts += _list(sheet.notes)
        if sheet.commands:
            more = len(sheet.commands) - COMMANDS
            rest = [f"and {more} more: --markdown, --latex and --csv have all"] if more > 0 else []
            parts += [Text(f"{text.TO_RUN}:"), *_list([*sheet.commands[:COMMANDS], *rest])]
    left_out = _list(text.leftovers(report.unplaced, report.problems))
    return [*parts, *(["", Text("Left out", style="bold"), *left_out] if left_out else [])]


def print_report(report: Report) -> None:
    """Print the report to stdout, 120 columns wide where that is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for part in terminal(report):
        console.print(part)


def _list(lines: Iterable[str]) -> list[RenderableType]:
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

    def __init__(self, sheet: Sheet, section: Section):
        self.heading = section.heading
        self.first: Column = (sheet.corner, [Text(line.label) for line in section.lines])
        columns = zip(*(line.cells for line in section.lines), strict=True)
        self.moving: list[Column] = [
            (head, [_cell(shown) for shown in column]) for head, column in zip(sheet.heads, columns, strict=True)
        ]
        self.widths = [_width(column) for column in self.moving]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw as many columns side by side as fit."""
        if self.heading:
            yield Text(self.heading, style="italic")
        fewest = len(self._cut(options.max_width, len(self.moving)))
        counts = range(1, len(self.moving) + 1)
        most = counts[bisect_left(counts, -fewest, key=lambda most: -len(self._cut(options.max_width, most)))]
        for i, columns in enumerate(self._cut(options.max_width, most)):  # as few grids as possible, and even ones
            if i:
                yield ""
            yield _grid(columns)

    def _cut(self, width: int, most: int) -> list[list[Column]]:
        """Return columns for each grid: as many as fit the width, at most `most` beside the first."""
        grids: list[list[Column]] = []
        taken = 0
        for column, wide in zip(self.moving, self.widths, strict=True):
            if not grids or len(grids[-1]) > most or taken + wide - 1 > width:
                grids.append([self.first])
                taken = _width(self.first)
            grids[-1].append(column)
            taken += wide
        return grids


def _width(column: Column) -> int:
    head, cells = column
    return max([Text(head).cell_len, *(cell.cell_len for cell in cells)]) + GAP


def _cell(shown: Shown) -> Text:
    style = {"": MARKS.get(shown.mark, ""), "missing": "dim"}.get(shown.state, "yellow")
    rest = filter(None, (shown.small, shown.seeds))
    return Text.assemble((shown.value, style), *((f" {part}", "dim") for part in rest))


def _grid(columns: list[Column]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for head, _ in columns:
        grid.add_column(Text(head), overflow="fold")
    for cells in zip(*(cells for _, cells in columns), strict=True):
        grid.add_row(*cells)
    return grid
