r"""A LaTeX macro for every number of a report, so that text can cite it: `\medpeft{isic}{ssf}{f1macro}`.

The arguments are the card's name, the method's name and the metric, of letters and digits alone. The optional one tells settings
apart: the backbone, the share of the training split if it is not all of it, and whatever else differs. Without it the number
must be the only one of its kind; one that there is not, or that is not the only one, prints ?? and a warning, never another number.
"""

from collections import defaultdict
from collections.abc import Iterator

from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.table import Block, Table

HEAD = r"""% numbers by medpeft report, for the preamble
% \medpeft[SETTING]{DATASET}{METHOD}{NUMBER}; \medpeftdemo for demo results. DATASET may be mean or rank, over datasets.
% NUMBER: a metric, as f1macro; behind it sd, seeds, low or high (of the interval of a single run); parameters, head.
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
    for table in report.tables:
        apart = "" if table.results_revision == newest[table.demo] else f"r{table.results_revision}"
        for (setting, *names), number in _numbers(table):
            demo = "demo" if table.demo else ""
            key = (demo, "-".join(filter(None, (setting, apart))), *names)
            full[key].add(number)
            if not apart:
                short[demo, "", *names].add(key)
    lines = [_set(key, numbers) for key, numbers in sorted(full.items())]
    only = {key: full[next(iter(keys))] for key, keys in short.items() if len(keys) == 1 and key not in full}
    lines += [_set(key, numbers) for key, numbers in sorted(only.items())]
    return HEAD + "".join(filter(None, lines)) + "\\makeatother\n"


def _set(key: Key, numbers: set[str]) -> str:
    """Return a definition; nothing if names that differ in signs alone gave one key to two numbers."""
    return (
        f"\\medpeft@set{''.join(f'{{{word}}}' for word in key)}{{{numbers.copy().pop()}}}\n"
        if len(numbers) == 1
        else ""
    )


def _numbers(table: Table) -> Iterator[tuple[Key, str]]:
    """Yield (setting, dataset, method, number's name) and the number of each cell, mean, rank and count of a table."""
    metric, digits = _slug(table.spec.metric), table.info.digits
    for i, cells in enumerate(table.cells):
        for j, cell in enumerate(cells):
            if cell.mean is None:
                continue
            run = cell.runs[0]
            names = (_setting(table, i, j), _slug(run.card.name if run.card else ""), _slug(run.method))
            values = {"": cell.mean, "sd": cell.sd, **dict(zip(("low", "high"), cell.interval or (), strict=False))}
            for kind, value in values.items():
                if value is not None:
                    yield (*names, f"{metric}{kind}"), f"{value:.{digits}f}"
            yield (*names, f"{metric}seeds"), str(len(cell.values))
            if run.parameters:
                yield (*names, "parameters"), text.count(run.parameters.method)
                yield (*names, "head"), text.count(run.parameters.head)
    for block in table.blocks:
        yield from _summaries(table, block, metric)
    if table.combined:
        yield from _summaries(table, table.combined, metric)


def _summaries(table: Table, block: Block, metric: str) -> Iterator[tuple[Key, str]]:
    for j, (mean, rank) in enumerate(zip(block.means, block.ranks, strict=True)):
        row = next((i for i in block.rows if table.cells[i][j].runs), None)
        if row is None:
            continue
        method = _slug(table.cells[row][j].runs[0].method)
        setting = "all" if block is table.combined else _setting(table, row, j, without=table.across)
        if mean is not None and block is not table.combined:
            yield (setting, "mean", method, metric), f"{mean:.{table.info.digits}f}"
        if rank is not None:
            yield (setting, "rank", method, metric), f"{rank:.2f}"


def _setting(table: Table, i: int, j: int, without: str = "dataset") -> str:
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
    return "".join(sign for sign in str(words).lower() if sign.isascii() and sign.isalnum())
