r"""LaTeX tables that compile as they are: booktabs is the only package. LaTeX of 2018 or later, for UTF-8 input."""

import unicodedata
from collections.abc import Iterable

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.table import Cell, Table

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
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
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
WIDE = 6  # columns of methods from which the spread becomes a subscript in small print


def latex(report: Report) -> str:
    """Return one `table` environment for each table of the report; leftovers and commands to run are comments."""
    parts = ["% tables by medpeft report; in the preamble: \\usepackage{booktabs}\n"]
    parts += [_environment(table, number, report) for number, table in enumerate(report.tables, 1)]
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


def _environment(table: Table, number: int, report: Report) -> str:
    wide = len(table.columns) >= WIDE
    heads = (
        _stacked(text.column_title(column)) if wide else escape(text.column_title(column)) for column in table.columns
    )
    lines = [r"\toprule", _joined([escape(table.across.capitalize()), *heads])]
    for block in table.blocks:
        lines.append(r"\midrule")
        if heading := text.heading(table, block):
            lines.append(f"\\multicolumn{{{len(table.columns) + 1}}}{{l}}{{\\textit{{{escape(heading)}}}}} \\\\")
        method, head = zip(*map(text.parameters, block.parameters), strict=True)
        lines += [_line(["Parameters", *method]), _line(["", *head])]
        for i in block.rows:
            label = escape(text.clean(table.rows[i][table.across]))
            lines.append(_joined([label, *(_value(table, cell, wide) for cell in table.cells[i])]))
        for name, numbers, marks in text.summaries(table, block):
            lines.append(_joined([name, *map(_marked, numbers, marks)]))
    title = ": ".join(filter(None, (text.title(table), text.subtitle(table))))
    notes = " ".join(f"{note}." for note in text.notes(table, report.revisions))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            *([r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"] if wide else [r"\small"]),
            f"\\caption{{{escape(' '.join([f'{title}.', *text.protocol(table)]))}}}",
            f"\\label{{tab:medpeft-{number}}}",
            f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *([f"\\par\\medskip\\parbox{{\\linewidth}}{{\\footnotesize {escape(notes)}}}"] if notes else []),
            r"\end{table}",
            *(f"% to run: {command}" for command in text.commands(table)),
            "",
        ]
    )


def _stacked(title: str) -> str:
    """Return a heading with a word a line, so that a wide table stays narrow."""
    words = r" \\ ".join(map(escape, title.split()))
    return f"\\shortstack{{{words}}}"


def _line(cells: Iterable[str]) -> str:
    return _joined(map(escape, cells))


def _joined(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _value(table: Table, cell: Cell, wide: bool) -> str:
    spread = text.spread(cell, table.info.digits)
    subscript = spread.replace("±", r"\pm")
    spread = f"$_{{{subscript}}}$" if wide and spread else escape(spread)
    parts = (_marked(text.value(cell, table.info.digits), cell.mark), spread, text.seeds_shown(table, cell))
    return ("" if wide else " ").join(filter(None, parts))


def _marked(number: str, mark: str) -> str:
    command = {"best": "textbf", "second": "underline"}.get(mark)
    return f"\\{command}{{{escape(number)}}}" if command else escape(number)
