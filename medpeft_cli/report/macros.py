r"""A LaTeX macro for every number of a report, so that text can cite it: `\medpeft{isic}{ssf}{f1macro}`.

The arguments are the card's name, the method's name and the metric, of letters and digits alone. The optional one tells settings
apart: the backbone, the share of the training split if it is not all of it, and whatever else differs. Without it the number
must be the only one of its kind; one that there is not, or that is not the only one, prints ?? and a warning, never another number.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.latex import escape
from medpeft_cli.report.paper import Number, Printed
from medpeft_cli.report.table import Block, Table

if TYPE_CHECKING:
    from medpeft_cli.report.comparisons import TableTests

HEAD = r"""% numbers by medpeft report, for the preamble
% \medpeft[SETTING]{DATASET}{METHOD}{NUMBER}; \medpeftdemo for demo results. DATASET may be mean or rank, over datasets.
% NUMBER: a metric, as f1macro; behind it sd, seeds, low or high (of the interval of a single run); parameters, head;
% against the baseline diff, difflow, diffhigh, pbootstrap, pmcnemar, pdelong, pnemenyi; paper: as printed by Dutt et al.
\makeatletter
\def\medpeft@number#1#2#3#4#5{\ifcsname medpeft@#1@#2@#3@#4@#5\endcsname\csname medpeft@#1@#2@#3@#4@#5\endcsname
  \else\textbf{??}\GenericWarning{}{medpeft: no number, or not only one: [#2]{#3}{#4}{#5}}\fi}
\providecommand\medpeft{}\renewcommand\medpeft[4][]{\medpeft@number{}{#1}{#2}{#3}{#4}}
\providecommand\medpeftdemo{}\renewcommand\medpeftdemo[4][]{\medpeft@number{demo}{#1}{#2}{#3}{#4}}
\def\medpeft@set#1#2#3#4#5#6{\expandafter\def\csname medpeft@#1@#2@#3@#4@#5\endcsname{#6}}
"""

NAMED = ("dataset", "backbone", "fraction", "method", "variant")  # dimensions with a place of their own
Key = tuple[str, ...]  # demo or nothing, setting, dataset, method, number


def macros(report: Report) -> str:
    """Return LaTeX that defines a macro for each number of the report's tables."""
    newest = {table.demo: table.results_revision for table in reversed(report.tables)}  # tables go from new to old
    full: dict[Key, set[str]] = defaultdict(set)
    short: dict[Key, set[Key]] = defaultdict(set)
    heads = []
    for i, table in enumerate(report.tables):
        old = "" if table.results_revision == newest[table.demo] else f"r{table.results_revision}"
        ways = list(dict.fromkeys(each.judged for each in report.tables if _kind(each) == _kind(table)))
        way = f"way{ways.index(table.judged) + 1}" if len(ways) > 1 else ""
        if way:
            heads.append(f"% {'-'.join(filter(None, (old, way)))}: {escape(text.clean(table.judged, 400))}\n")
        for (setting, *names), number in _numbers(table, report.printed(table), report.tests[i : i + 1]):
            demo = "demo" if table.demo else ""
            key = (demo, "-".join(filter(None, (setting, old, way))), *names)
            full[key].add(number)
            if not old and not way:
                short[demo, "", *names].add(key)
    lines = [_set(key, numbers) for key, numbers in sorted(full.items())]
    only = {key: full[next(iter(keys))] for key, keys in short.items() if len(keys) == 1 and key not in full}
    lines += [_set(key, numbers) for key, numbers in sorted(only.items())]
    return HEAD + "".join([*dict.fromkeys(heads), *lines]) + "\\makeatother\n"


def _kind(table: Table) -> tuple[bool, int, str]:
    return table.demo, table.results_revision, table.family


def _set(key: Key, numbers: set[str]) -> str:
    """Return a definition; a comment if names that differ in signs alone gave one key to several numbers."""
    names = "".join(f"{{{word}}}" for word in key)
    if len(numbers) > 1:
        return f"% not defined, as its name is that of {len(numbers)} numbers: {names}\n"
    return f"\\medpeft@set{names}{{{next(iter(numbers))}}}\n"


def _numbers(table: Table, printed: Printed | None, tests: Sequence["TableTests"]) -> Iterator[tuple[Key, str]]:
    """Yield (setting, dataset, method, number's name) and the number of each cell, mean, rank and count of a table."""
    metric, digits = _slug(table.spec.metric), table.info.digits
    for i, cells in enumerate(table.cells):
        for j, cell in enumerate(cells):
            if cell.mean is None:
                continue
            run, names = cell.runs[0], _names(table, i, j)
            values = {"": cell.mean, "sd": cell.sd, **dict(zip(("low", "high"), cell.interval or (), strict=False))}
            for kind, value in values.items():
                if value is not None:
                    yield (*names, f"{metric}{kind}"), f"{value:.{digits}f}"
            yield (*names, f"{metric}seeds"), str(len(cell.values))
            if run.parameters:
                yield (*names, "parameters"), text.count(run.parameters.method)
                yield (*names, "head"), text.count(run.parameters.head)
            if printed and (number := printed.cells[i][j]):
                yield (*names, f"{metric}paper"), escape(number.text)
    for b, block in enumerate(table.blocks):
        yield from _summaries(table, block, metric, printed and printed.means[b], printed and printed.ranks[b])
    if table.combined:
        yield from _summaries(table, table.combined, metric, None, printed and printed.combined)
    for each in tests:
        yield from _tested(each, metric)


def _summaries(
    table: Table,
    block: Block,
    metric: str,
    paper_means: Sequence[Number | None] | None,
    paper_ranks: Sequence[Number | None] | None,
) -> Iterator[tuple[Key, str]]:
    for j, (mean, rank) in enumerate(zip(block.means, block.ranks, strict=True)):
        row = next((i for i in block.rows if table.cells[i][j].runs), None)
        if row is None:
            continue
        setting, _, method = _names(table, row, j, without=table.across)
        setting = "all" if block is table.combined else setting
        if mean is not None and block is not table.combined:
            yield (setting, "mean", method, metric), f"{mean:.{table.info.digits}f}"
            if paper_means and (number := paper_means[j]):
                yield (setting, "mean", method, f"{metric}paper"), escape(number.text)
        if rank is not None:
            yield (setting, "rank", method, metric), f"{rank:.2f}"
            if paper_ranks and (number := paper_ranks[j]):
                yield (setting, "rank", method, f"{metric}paper"), escape(number.text)


def _tested(tests: "TableTests", metric: str) -> Iterator[tuple[Key, str]]:
    """Yield differences from the baseline with their intervals, and p by the name of their test."""
    from medpeft_cli.report.comparison_sheets import probability

    table, digits = tests.table, tests.table.info.digits

    def numbers(names: Key, differences: Sequence[float], p: dict[str, float]) -> Iterator[tuple[Key, str]]:
        for kind, value in zip(("diff", "difflow", "diffhigh"), differences, strict=True):
            if not math.isnan(value):
                yield (*names, f"{metric}{kind}"), escape(text.signed(value, digits))
        for kind, value in p.items():
            if not math.isnan(value):
                yield (*names, f"{metric}p{kind}"), probability(value).replace("<", "$<$")

    for row in tests.rows:
        for each in row.comparisons:
            found = each.difference
            p = {"bootstrap": found.p, "mcnemar": each.p_mcnemar, "delong": each.p_delong}
            yield from numbers(_names(table, row.row, each.column), (found.value, found.low, found.high), p)
    for over in tests.blocks:
        for effect in over.effects:
            row = next(i for i in table.blocks[over.block].rows if table.cells[i][effect.column].runs)
            setting, _, method = _names(table, row, effect.column, without=table.across)
            p = {"nemenyi": over.nemenyi.get(effect.column, math.nan)}
            yield from numbers((setting, "mean", method), (effect.mean, effect.low, effect.high), p)


def _names(table: Table, i: int, j: int, without: str = "dataset") -> Key:
    """Return (setting, dataset, method) of a cell that has runs."""
    run = table.cells[i][j].runs[0]
    return _setting(table, i, j, without), _slug(run.card.name if run.card else ""), _slug(run.method)


def _setting(table: Table, i: int, j: int, without: str) -> str:
    """Return what a cell has beside dataset and method: backbone, share if not all, version, variant."""
    run = table.cells[i][j].runs[0]
    labels = {**table.rows[i], **table.columns[j]}
    version = labels.get("dataset", "").removeprefix(run.card.title if run.card else "")
    words = [labels.get("backbone", str(run.backbone_title))]
    if without != "fraction" and not run.whole:
        shots = run.setting("data", "k_shot")
        words.append(f"f{100 * run.share:g}" if shots is None else f"k{shots}")
    words += [version if without != "dataset" else "", labels.get("variant", "")]
    words += [f"{name}{label}" for name, label in labels.items() if name not in NAMED]
    return "-".join(filter(None, map(_slug, words)))


def _slug(words: str) -> str:
    """Return letters and digits alone; the point of a number is a p, and the sign of its exponent an m."""
    words = re.sub(r"(?<=\d)\.(?=\d)", "p", str(words).lower())
    words = re.sub(r"(?<=\de)-(?=\d)|(?<![a-z0-9])-(?=\d)", "m", words)
    return "".join(sign for sign in words if sign.isascii() and sign.isalnum())
