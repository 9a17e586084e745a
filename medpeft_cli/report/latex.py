r"""LaTeX tables that compile as they are: booktabs and graphicx are all they need. LaTeX of 2018 or later, for UTF-8 input."""

import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.sheet import Kind, Sheet, Shown

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
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$\dagger$",
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
WIDE = 6  # columns of methods from which the spread becomes a subscript in small print


def latex(report: Report) -> str:
    """Return one `table` environment for each sheet of the report; leftovers and commands to run are comments."""
    parts = [
        "% tables by medpeft report; in the preamble: \\usepackage{booktabs,graphicx}; numbers.tex beside it defines a macro for each number\n"
    ]
    parts += [_environment(sheet) for sheet in report.sheets]
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
    notes = " ".join(f"{note}." for note in sheet.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            *([r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"] if wide else [r"\small"]),
            f"\\caption{{{escape(' '.join([f'{title}.', *sheet.caption]))}}}",
            f"\\label{{tab:medpeft-{sheet.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",  # as wide as the page at most
            f"\\begin{{tabular}}{{l{'c' * len(sheet.heads)}}}",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            *([f"\\par\\medskip\\parbox{{\\linewidth}}{{\\footnotesize {escape(notes)}}}"] if notes else []),
            r"\end{table}",
            *(f"% to run: {command}" for command in sheet.commands),
            "",
        ]
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
