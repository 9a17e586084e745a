"""A table as it is printed: headings, lines and cells in plain text, not yet escaped. Terminal, LaTeX, Markdown and HTML draw it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medpeft_cli.report import text
from medpeft_cli.report.commands import commands
from medpeft_cli.report.paper import Numbers, Printed, misprints
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import RANK_DIGITS, Block, Cell, Table

Kind = Literal["value", "parameters", "mean", "rank", "paper"]
BESIDE = (
    "Paper: as printed, its ± taken as percentage points; its F1 names no averaging.",
    "Difference: ours − printed; † is a known misprint or doubt.",
)


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
    kind: Kind = "value"


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


def table_names(tables: Sequence[Table]) -> list[str]:
    """Return a name for each table, unique among them: letters, digits and hyphens."""
    several = len({table.results_revision for table in tables}) > 1
    names: list[str] = []
    for table in tables:
        apart = ("demo-" if table.demo else "") + (f"r{table.results_revision}-" if several else "")
        name = f"{apart}{table.spec.name}-{table.spec.metric.replace('_', '')}"
        same = sum(known == name or known.startswith(f"{name}-") for known in names)
        names.append(f"{name}-{same + 1}" if same else name)
    return names


def table_sheets(
    tables: Sequence[tuple[Table, Printed | None]], names: Sequence[str], revisions: set[int], filtered: str
) -> list[Sheet]:
    """Return each table as it is printed, behind one of several backbones their parameters (the paper's Table 6).

    Args:
        tables: each with the paper's numbers to be put beside ours.
        names: of the tables.
        revisions: of the results in the whole report.
        filtered: which runs were asked for; "" for all.
    """
    sheets: list[Sheet] = []
    for name, (table, printed) in zip(names, tables, strict=True):
        sheet = _result_sheet(table, name, text.notes(table, revisions, filtered), printed)
        sheets += sheet.turned() if table.spec.turned else [sheet]
        if text.parameters_apart(table):
            sheets.append(_parameter_sheet(table, f"{name}-parameters", printed))
    return sheets


def _result_sheet(table: Table, name: str, notes: list[str], printed: Printed | None) -> Sheet:
    sections = []
    for b, block in enumerate(table.blocks):
        lines = []
        if not text.parameters_apart(table):
            lines += [_parameters(block), *_paper(printed.parameters[b] if printed else None)]
        for i in block.rows:
            lines.append(Line(text.row_label(table, i), tuple(_shown(table, cell) for cell in table.cells[i])))
            lines += _paper(
                printed.cells[i] if printed else None, [cell.mean for cell in table.cells[i]], table.info.digits
            )
        if any(mean is not None for mean in block.means):
            lines.append(_numbers("Mean", "mean", block.means, block.mean_marks, table.info.digits))
            lines += _paper(printed.means[b] if printed else None, block.means, table.info.digits)
        if block.ranked_rows and not table.combined:
            lines.append(_numbers("Rank", "rank", block.ranks, block.rank_marks, RANK_DIGITS))
            lines += _paper(printed.ranks[b] if printed else None, block.ranks, RANK_DIGITS)
        sections.append(Section(text.heading(table, block), tuple(lines)))
    if (together := table.combined) and together.ranked_rows:
        ranks = _numbers("Rank", "rank", together.ranks, together.rank_marks, RANK_DIGITS)
        paper = _paper(printed.combined if printed else None, together.ranks, RANK_DIGITS)
        sections.append(Section("All rows together", (ranks, *paper)))
    wrong: list[str] = []
    if printed:
        counts = [] if text.parameters_apart(table) else printed.parameters
        wrong = misprints([*counts, *printed.cells, *printed.means, *printed.ranks, printed.combined])
    return Sheet(
        name,
        text.title(table),
        text.subtitle(table),
        text.capitalised(table.across),
        tuple(text.column_title(column) for column in table.columns),
        tuple(sections),
        (*text.protocol(table), *(BESIDE if printed else ())),
        (*notes, *wrong),
        tuple(commands(table)),
    )


def _parameter_sheet(table: Table, name: str, printed: Printed | None) -> Sheet:
    lines: list[Line] = []
    for b, block in enumerate(table.blocks):
        lines += [replace(_parameters(block), label=text.heading(table, block))]
        lines += _paper(printed.parameters[b] if printed else None)
    return Sheet(
        name,
        text.titled(table, "Trainable parameters"),
        "",
        "Backbone",
        tuple(text.column_title(column) for column in table.columns),
        (Section("", tuple(lines)),),
        tuple(text.parameter_protocol()),
        tuple(misprints(printed.parameters)) if printed else (),
    )


def _parameters(block: Block) -> Line:
    return Line("Parameters", tuple(Shown(*text.parameters(seen)) for seen in block.parameters), "parameters")


def _numbers(label: str, kind: Kind, values: Sequence[float | None], marks: Sequence[str], digits: int) -> Line:
    pairs = zip(values, marks, strict=True)
    return Line(label, tuple(Shown(text.fixed(value, digits), mark=mark) for value, mark in pairs), kind)


def _paper(numbers: Numbers | None, ours: Sequence[float | None] = (), digits: int = 0) -> list[Line]:
    """Return a line of printed numbers, and one of the differences where they are numbers; nothing without any."""
    if not numbers or not any(numbers):
        return []
    shown = tuple(Shown(f"{n.text}{'†' if n.misprint else ''}" if n else "") for n in numbers)
    if not ours:
        return [Line("paper", shown, "paper")]
    apart = tuple(
        Shown("" if n is None or n.value is None or mean is None else text.signed(mean - n.value, digits))
        for n, mean in zip(numbers, ours, strict=True)
    )
    return [Line("paper", shown, "paper"), Line("difference", apart, "paper")]


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
