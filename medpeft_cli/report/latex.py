r"""LaTeX tables that compile as they are: booktabs and graphicx are all they need. LaTeX of 2018 or later, for UTF-8 input."""

import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.sheet import Kind, Line, Section, Sheet, Shown

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs T1 fonts
    "[": "{[}",  # after \\ it would be an optional argument
    "]": "{]}",
    "*": "{*}",
    "`": "{`}",
    "-": "-{}",  # two would be an en dash
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$\dagger$",
    "χ": r"$\chi$",
    "²": r"$^2$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "ß": r"\ss{}",
}
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}
PM, QUAD = r"\pm", r"\quad "
COLUMNS, LINES = 12, 40  # that a page holds
FLOATS = 30  # tables after which a page ends: LaTeX holds 52 at most that it could not place yet
NOTES = 1500  # characters of notes under a table
WIDE = 6  # columns of methods from which the spread becomes a subscript in small print


def latex(report: Report) -> str:
    """Return one `table` environment for each sheet of the report; leftovers and commands to run are comments."""
    parts = [
        "% tables by medpeft report; in the preamble: \\usepackage{booktabs,graphicx}; numbers.tex beside it defines a macro for each number\n"
    ]
    for number, part in enumerate((part for sheet in report.sheets for part in _parts(sheet)), 1):
        parts += [_environment(part), *(["\\clearpage\n"] if number % FLOATS == 0 else [])]
    parts += [f"% left out: {escape(line)}\n" for line in text.leftovers(report.unplaced, report.problems)]
    return "\n".join(parts)


def escape(value: str) -> str:
    """Return text that LaTeX prints as it is: no character acts, and none is unknown to its standard fonts."""
    return "".join(_sign(sign) for sign in text.clean(value, 10_000))


def _sign(sign: str) -> str:
    if sign in ESCAPES:
        return ESCAPES[sign]
    if sign.isascii():
        return sign
    letter, *accents = list(unicodedata.normalize("NFD", sign))
    if letter.isascii() and len(accents) == 1 and accents[0] in ACCENTS:
        return f"\\{ACCENTS[accents[0]]}{{{letter}}}"
    return f"{{[}}U+{ord(sign):04X}{{]}}"


def _parts(sheet: Sheet) -> list[Sheet]:
    """Cut a table that no page holds into several: the first has the caption, the last the notes."""
    cuts = [
        (lines, slice(right, right + COLUMNS))
        for lines in _pages(sheet)
        for right in range(0, max(len(sheet.heads), 1), COLUMNS)
    ]
    parts = []
    for i, (some, columns) in enumerate(cuts):
        sections = [
            Section(heading, tuple(replace(line, cells=line.cells[columns]) for _, line in group))
            for heading, group in groupby(some, lambda pair: pair[0])
        ]
        part = replace(sheet, heads=sheet.heads[columns], sections=tuple(sections))
        if len(cuts) > 1:
            part = replace(part, name=f"{sheet.name}-part{i + 1}", title=f"{sheet.title} (part {i + 1} of {len(cuts)})")
        if i > 0:
            part = replace(part, caption=())
        if i + 1 < len(cuts):
            part = replace(part, notes=(), commands=())
        parts.append(part)
    return parts


def _pages(sheet: Sheet) -> list[list[tuple[str, Line]]]:
    """Return (heading, line) of each page: what belongs to a line stays with it."""
    wide = len(sheet.heads) >= WIDE
    pages: list[list[tuple[str, Line]]] = [[]]
    height = 0
    for section in sheet.sections:
        for line in section.lines:
            height += 2 if any(_below(shown, line.kind, wide) for shown in line.cells) else 1
            if height > LINES and pages[-1] and line.kind != "paper":
                pages.append([])
                height = 1
            pages[-1].append((section.heading, line))
    return pages


def _environment(sheet: Sheet) -> str:
    wide = len(sheet.heads) >= WIDE
    lines = [r"\toprule", _joined([escape(sheet.corner), *(_stacked(h) if wide else escape(h) for h in sheet.heads)])]
    for section in sheet.sections:
        lines.append(r"\midrule")
        if section.heading:
            lines.append(f"\\multicolumn{{{len(sheet.heads) + 1}}}{{l}}{{\\textit{{{escape(section.heading)}}}}} \\\\")
        for line in section.lines:
            label = f"{QUAD if line.kind == 'paper' else ''}{escape(line.label)}"
            below = [_below(shown, line.kind, wide) for shown in line.cells]
            cells = (
                _value(replace(shown, small="") if small else shown, wide)
                for shown, small in zip(line.cells, below, strict=True)
            )
            lines.append(_joined([label, *cells]))
            if any(below):
                lines.append(_joined(["", *below]))
    title = ": ".join(filter(None, (sheet.title, sheet.subtitle)))
    notes = [f"{note}." for note in sheet.notes]
    shown = [note for i, note in enumerate(notes) if sum(map(len, notes[: i + 1])) <= NOTES]
    if more := notes[len(shown) :]:
        shown.append(f"{len(more)} more notes are comments in the LaTeX source.")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\setlength{\belowcaptionskip}{6pt}",
            *([r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"] if wide else [r"\small"]),
            f"\\caption{{{escape(' '.join([f'{title}.', *sheet.caption]))}}}",
            f"\\label{{tab:medpeft-{sheet.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",  # as wide as the page at most
            f"\\begin{{tabular}}{{l{'c' * len(sheet.heads)}}}",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            *(
                [f"\\par\\medskip\\parbox{{\\linewidth}}{{\\footnotesize\\raggedright {_breakable(shown)}}}"]
                if shown
                else []
            ),
            r"\end{table}",
            *(f"% {escape(note)}" for note in more),
            *(f"% to run: {command}" for command in sheet.commands),
            "",
        ]
    )


def _breakable(notes: Iterable[str]) -> str:
    """Return escaped notes whose paths and names may be broken."""
    return "".join(
        _sign(sign) + (r"\allowbreak{}" if sign in "/_-" else "") for sign in text.clean(" ".join(notes), 10_000)
    )


def _stacked(title: str) -> str:
    """Return a heading with a word a line, so that a wide table stays narrow."""
    words = r" \\ ".join(map(escape, title.split()))
    return f"\\shortstack{{{words}}}"


def _joined(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _below(shown: Shown, kind: Kind, wide: bool) -> str:
    """Return the small print that is too wide to stand beside its value."""
    if kind == "parameters":
        return escape(shown.small)
    return f"$_{{{shown.small}}}$" if wide and shown.small.startswith("[") else ""


def _value(shown: Shown, wide: bool) -> str:
    small = f"$_{{{shown.small.replace('±', PM)}}}$" if wide and shown.small else escape(shown.small)
    parts = (_marked(shown.value, shown.mark), small, escape(shown.seeds))
    return ("" if wide else " ").join(filter(None, parts))


def _marked(number: str, mark: str) -> str:
    command = {"best": "textbf", "second": "underline"}.get(mark)
    return f"\\{command}{{{escape(number)}}}" if command else escape(number)
