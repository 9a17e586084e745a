"""A table as it is printed: headings, lines and cells in plain text, not yet escaped. Terminal, LaTeX, Markdown and HTML draw it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medpeft_cli.report import text
from medpeft_cli.report.commands import commands
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import RANK_DIGITS, Block, Cell, Table


@dataclass(frozen=True)
class Shown:
    """One cell.

    Attributes:
        value: the number, or what stands for it.
        small: what belongs to it in small print: ± sd, an interval, parameters of the head.
        seeds: "(n)" where it has another number of seeds than most of its table.
        mark: "best", "second" or "".
        state: why there is no number: missing, failed, cancelled, running, not scored, undefined; "" if there is one.
        runs: that are behind it.
    """

    value: str
    small: str = ""
    seeds: str = ""
    mark: str = ""
    state: str = ""
    runs: tuple[Run, ...] = ()

    @property
    def plain(self) -> str:
        """All of it, for where nothing can be set off."""
        return " ".join(filter(None, (self.value, self.small, self.seeds)))


@dataclass(frozen=True)
class Line:
    """One line of cells; `kind` says what they are."""

    label: str
    cells: tuple[Shown, ...]
    kind: Literal["value", "parameters", "mean", "rank", "paper"] = "value"


@dataclass(frozen=True)
class Section:
    """Lines under a common heading, which may be empty."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Sheet:
    """One printed table.

    Attributes:
        name: for labels and file names, unique in a report: letters, digits and hyphens.
        title, subtitle: what it is, what all its cells share.
        corner: heading of the labels.
        heads: headings of the columns.
        sections: each with its lines; every line has a cell for each heading.
        caption: sentences: protocol, averaging, n, seeds, marks, ranks.
        notes: what the reader has to know beside it: what is apart, what has no value and why.
        commands: that fill missing cells and seeds.
        methods: whether the methods are the columns or the lines.
    """

    name: str
    title: str
    subtitle: str
    corner: str
    heads: tuple[str, ...]
    sections: tuple[Section, ...]
    caption: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    methods: Literal["columns", "lines"] = "columns"

    @property
    def demo(self) -> bool:
        """Whether it shows demo results."""
        return self.name.startswith("demo-")

    def turned(self) -> list["Sheet"]:
        """Return it with lines and columns exchanged: a sheet for each section, as their lines may differ."""
        sheets = []
        for i, section in enumerate(self.sections):
            heads = tuple(line.label for line in section.lines)
            columns = zip(*(line.cells for line in section.lines), strict=True)
            lines = tuple(Line(head, cells) for head, cells in zip(self.heads, columns, strict=True))
            sheets.append(
                replace(
                    self,
                    name=f"{self.name}-{i + 1}" if len(self.sections) > 1 else self.name,
                    corner="Method",
                    heads=heads,
                    sections=(Section(section.heading, lines),),
                    methods="lines",
                )
            )
        return sheets


def table_sheets(tables: Sequence[Table], revisions: set[int]) -> list[Sheet]:
    """Return each table as it is printed, behind one of several backbones their parameters (the paper's Table 6)."""
    sheets: list[Sheet] = []
    names: set[str] = set()
    for table in tables:
        apart = ("demo-" if table.demo else "") + (f"r{table.results_revision}-" if len(revisions) > 1 else "")
        name = _unique(f"{apart}{table.spec.name}-{table.spec.metric.replace('_', '')}", names)
        several = text.parameters_apart(table)
        sheet = _result_sheet(table, name, revisions, with_parameters=not several)
        sheets += sheet.turned() if table.spec.turned else [sheet]
        if several:
            sheets.append(_parameter_sheet(table, _unique(f"{apart}table6-{table.spec.name}", names)))
    return sheets


def _unique(name: str, names: set[str]) -> str:
    found = next(each for i in range(1, len(names) + 2) if (each := name if i == 1 else f"{name}-{i}") not in names)
    names.add(found)
    return found


def _result_sheet(table: Table, name: str, revisions: set[int], with_parameters: bool) -> Sheet:
    sections = []
    for block in table.blocks:
        lines = [_parameters(block)] if with_parameters else []
        lines += [
            Line(text.row_label(table, i), tuple(_shown(table, cell) for cell in table.cells[i])) for i in block.rows
        ]
        sections.append(Section(text.heading(table, block), (*lines, *_summaries(table, block))))
    if table.combined and table.combined.ranked_rows:
        sections.append(Section("All rows together", (_ranks(table.combined),)))
    return Sheet(
        name,
        text.title(table),
        text.subtitle(table),
        text.capitalised(table.across),
        tuple(text.column_title(column) for column in table.columns),
        tuple(sections),
        tuple(text.protocol(table)),
        tuple(text.notes(table, revisions)),
        tuple(commands(table)),
    )


def _parameter_sheet(table: Table, name: str) -> Sheet:
    lines = tuple(replace(_parameters(block), label=text.heading(table, block)) for block in table.blocks)
    return Sheet(
        name,
        text.titled(table, "Trainable parameters"),
        "",
        "Backbone",
        tuple(text.column_title(column) for column in table.columns),
        (Section("", lines),),
        tuple(text.parameter_protocol()),
    )


def _parameters(block: Block) -> Line:
    return Line("Parameters", tuple(Shown(*text.parameters(seen)) for seen in block.parameters), "parameters")


def _summaries(table: Table, block: Block) -> list[Line]:
    """Return the lines of means and of ranks, where a block has them."""
    lines = []
    if any(mean is not None for mean in block.means):
        numbers = (text.fixed(mean, table.info.digits) for mean in block.means)
        shown = tuple(Shown(number, mark=mark) for number, mark in zip(numbers, block.mean_marks, strict=True))
        lines.append(Line("Mean", shown, "mean"))
    if block.ranked_rows and not table.combined:
        lines.append(_ranks(block))
    return lines


def _ranks(block: Block) -> Line:
    numbers = (text.fixed(rank, RANK_DIGITS) for rank in block.ranks)
    return Line("Rank", tuple(Shown(n, mark=mark) for n, mark in zip(numbers, block.rank_marks, strict=True)), "rank")


def _shown(table: Table, cell: Cell) -> Shown:
    digits = table.info.digits
    return Shown(
        text.value(cell, digits),
        text.spread(cell, digits),
        text.seeds_shown(table, cell),
        cell.mark,
        cell.state,
        (*cell.runs, *cell.others),
    )
