"""Which figures the records of a report can bear, with file names and captions."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from medpeft_cli.files import atomic_path
from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.figures import fractions, ranks, runs, samples, scatter
from medpeft_cli.report.figures.panels import BEST, MOST, PLACES, better, legible, main_blocks, possible_blocks
from medpeft_cli.report.figures.style import encode, look
from medpeft_cli.report.ranks import critical_difference
from medpeft_cli.report.run_files import history
from medpeft_cli.report.table import Block, Cell, Table, TableSpec, pivot

LISTED = 12  # methods that a caption names
FORMS = ("pdf", "png")


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes:
        name: of its file, without an ending.
        title: what it shows, of which data.
        caption: how to read it; plain text, not escaped.
        draw: draws it.
        demo: shows demo results.
        photographs: holds pictures, whose colours must stay as they are.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    demo: bool = False
    photographs: bool = False

    def encoded(self, *forms: str) -> list[bytes]:
        """Return the figure as pdf, png or svg; the same records give the same bytes."""
        with look():
            figure = self.draw()
            return [encode(figure, form) for form in forms]


def drawings(report: Report) -> list[Drawing]:
    """Return every figure of a report, table by table: real and demo results are never in one figure."""
    found: dict[str, Drawing] = {}
    for table in figure_tables(report):
        for drawing in _of_table(table):
            words = ["demo"] * table.demo + [drawing.name]
            words += [f"r{table.results_revision}"] * (len(report.revisions) > 1)
            name = plain = "-".join(words)
            number = 1
            while name in found:  # names that differ in signs that no file name has
                name = f"{plain}-{(number := number + 1)}"
            title = f"{text.DEMO}: {drawing.title}" if table.demo else drawing.title
            found[name] = replace(drawing, name=name, title=title, demo=table.demo)
    return list(found.values())


def figure_tables(report: Report) -> list[Table]:
    """Return one table of dataset × backbone × fraction for each family, whatever the layouts of the printed ones."""
    metrics = {table.family: table.spec.metric for table in report.tables}
    tables = []
    for family, metric in metrics.items():
        mine = [run for run in report.runs if run.family == family]
        tables += pivot(mine, TableSpec(metric=metric, across="dataset"))
    return sorted(tables, key=lambda table: table.demo)


def not_drawn(report: Report, *, demo: bool) -> str:
    """Return sentences on what of real or demo runs is not drawn because there is too much; "" if all is."""
    tables = [table for table in figure_tables(report) if table.demo == demo]
    rows, settings, datasets = (
        sum(max(number - PLACES, 0) for number in numbers)
        for numbers in (
            [len(table.rows) for table in tables],
            [len(possible_blocks(table)) for table in tables],
            [len(_fraction_groups(table)) for table in tables],
        )
    )
    said = {
        f"Curves, matrices and reliability of {rows} more rows are not drawn; each run has its own.": rows,
        f"Parameters, cost and ranks of {settings} more settings are not drawn; --where chooses others.": settings,
        f"Score against data of {datasets} more datasets is not drawn; --where chooses others.": datasets,
    }
    return " ".join(sentence for sentence, number in said.items() if number)


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure as PDF and PNG and return the files.

    Raises:
        RunError: if the folder cannot be written.
    """
    written = []
    for drawing in drawings(report):
        for form, data in zip(FORMS, drawing.encoded(*FORMS), strict=True):
            written.append(folder / f"{drawing.name}.{form}")
            with atomic_path(written[-1]) as draft:
                draft.write_bytes(data)
    return written


def _of_table(table: Table) -> Iterator[Drawing]:
    metric = table.info.title[0].upper() + table.info.title[1:]
    for dataset, every in list(_fraction_groups(table).items())[:PLACES]:
        groups = every[:PLACES]
        columns = fractions.best_first(table, groups)
        shown = legible(table, columns)
        more = f" {len(every) - PLACES} more settings are not drawn; --where chooses others." * (len(every) > PLACES)
        yield Drawing(
            _slug("fractions", table.family, dataset),
            f"{metric} against training data, {text.clean(dataset)}",
            f"Mean over seeds, bars ± standard deviation. {_crossed(shown, groups)}"
            f"{_cut([len(columns)], 'full fine-tuning, then the best on the most data')}{more}",
            partial(fractions.fractions, shown, groups),
        )
    if blocks := scatter.blocks_with_parameters(table):
        several = any(len(block.rows) > 1 for block in blocks)
        known = [scatter.parameter_points(table, block) for block in blocks]
        missing = [
            (text.heading(table, block), scatter.undrawn(table, block, each))
            for block, each in zip(blocks, known, strict=True)
        ]
        yield Drawing(
            _slug("parameters", table.family),
            f"{metric} against trained parameters",
            f"{'Mean over the datasets. ' if several else ''}{FRONT.format('trained parameters')}"
            f"{_undrawn(missing, 'score and count')}{_cut(map(len, known), FIRST_OF_FRONT)}",
            partial(scatter.parameters, table),
        )
    for block in main_blocks(table):
        if points := scatter.known_costs(table, block):
            missing = [(name.partition(",")[0], scatter.undrawn(table, block, each)) for name, each in points.items()]
            yield Drawing(
                _slug(
                    "cost", table.family, *_labels(table, block.rows[0], table.across if len(block.rows) > 1 else "")
                ),
                f"{metric} against cost, {text.heading(table, block) or text.subtitle(table) or 'all runs'}",
                f"{FRONT.format('cost')} {_devices(table, block)}{_undrawn(missing, 'score and cost')}"
                f"{_cut(map(len, points.values()), FIRST_OF_FRONT)}",
                partial(scatter.cost, table, block),
            )
    if blocks := ranks.ranked_blocks(table):
        yield Drawing(
            _slug("ranks", table.family),
            f"Ranks by {table.info.title}",
            " ".join(map(partial(_power, table), blocks))
            + _cut([sum(rank is not None for rank in block.ranks) for block in blocks], "the best"),
            partial(ranks.ranks, table),
        )
    whole = [i for block in main_blocks(table) for i in block.rows]
    for i in [*whole, *(i for i in range(len(table.rows)) if i not in whole)][:PLACES]:
        yield from _of_row(table, i)


FRONT = "Filled and joined: the Pareto front; hollow: another method is at least as good at no more {}."
FIRST_OF_FRONT = "the front, then the best"


def _of_row(whole: Table, i: int) -> Iterator[Drawing]:
    columns = _best_first(whole.cells[i], whole)
    table = legible(whole, columns)
    cells = table.cells[i]
    cut = _cut([len(columns)], "the best")
    place = " · ".join(text.label(name, table.rows[i][name]) for name in table.spec.rows)

    def drawing(kind: str, title: str, caption: str, draw: Callable[[Table, int], Figure]) -> Drawing:
        name = _slug(kind, table.family, *_labels(table, i))
        return Drawing(name, f"{title}, {place}", caption + cut, partial(draw, table, i), photographs=kind == "samples")

    if any(history(run) for cell in cells for run in cell.runs):
        yield drawing("curves", "Training curves", "Mean over seeds and their range.", runs.curves)
    if runs.scored(cells):
        caption = "Sum over seeds; each row is 100 % of the images of a true class."
        yield drawing("confusion", "Confusion on the test split", caption, runs.confusion)
    if runs.calibrated(cells):
        caption = (
            "Test images of all seeds together in 15 bins of confidence, dots by their number; below the diagonal a "
            "method is too sure of itself. ECE of the pooled images."
        )
        yield drawing("reliability", "Reliability on the test split", caption, runs.reliabilities)
    shown = [run for cell in cells if (run := samples.shown_run(cell))]
    if shown and samples.common_prompts(shown):
        caption = (
            "The same prompts and seeds by each method; where the prepared dataset is at hand, its picture is beside "
            "them, under the dataset's licence."
        )
        yield drawing("samples", "Generated pictures", caption, samples.samples)


def _best_first(cells: Sequence[Cell], table: Table) -> list[int]:
    """Return the columns that have runs in a row, the best score first, those without one last."""
    tried = [j for j, cell in enumerate(cells) if cell.runs or cell.others]
    return sorted(tried, key=lambda j: (cells[j].mean is None, better(table, cells[j].mean or 0.0)))


def _cut(numbers: Iterable[int], first: str) -> str:
    """Return a sentence on panels that would show more than MOST methods; "" for none.

    Args:
        numbers: of methods that each panel could show.
        first: those that are shown.
    """
    many = sorted({number for number in numbers if number > MOST})
    of = " or ".join(f"{number:,}" for number in many)
    return f" Of {of} methods or recipes only {BEST} are drawn: {first}. The tables have all." if many else ""


def _undrawn(missing: Sequence[tuple[str, list[str]]], what: str) -> str:
    """Return a sentence on the methods that some panels lack; "" for none.

    Args:
        missing: what a panel shows, and the methods that it lacks.
        what: they lack on a dataset.
    """
    alike = len({tuple(names) for _, names in missing}) == 1
    said = [
        f"{', '.join(names[:LISTED])}{f' and {len(names) - LISTED:,} more' if len(names) > LISTED else ''}"
        f"{f' ({panel})' if panel and not alike else ''}"
        for panel, names in (missing[:1] if alike else missing)
        if names
    ]
    return f" Not drawn, without {what} on every dataset: {'; '.join(said)}." if said else ""


def _fraction_groups(table: Table) -> dict[str, list[list[int]]]:
    """Return by dataset the groups of rows that differ in nothing but the fraction, and have scores at two or more."""
    if "fraction" not in table.spec.rows:
        return {}
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(table.rows):
        groups.setdefault(tuple(row[name] for name in table.spec.rows if name != "fraction"), []).append(i)
    found: dict[str, list[list[int]]] = {}
    for rows in groups.values():
        if any(len(fractions.series(table, rows, j)) > 1 for j in range(len(table.columns))):
            found.setdefault(table.rows[rows[0]].get("dataset", "all"), []).append(rows)
    return found


def _crossed(table: Table, groups: Sequence[Sequence[int]]) -> str:
    """Return the crossovers in words."""
    columns = [j for group in groups if (j := fractions.full_tuning(table, group)) is not None]
    if not columns:
        return "No curve of full fine-tuning to cross."
    full = " or ".join(dict.fromkeys(text.column_title(table.columns[j]) for j in columns))
    said = []
    for group in groups:
        where = " · ".join(_labels(table, group[0], "fraction", "dataset"))
        for name, places in fractions.crossed(table, group):
            at = " and ".join(f"{x:.2g} %" for x in places)
            said.append(f"{name} at {at}{f' ({where})' if where and len(groups) > 1 else ''}")
    return f"Crossovers with {full}: {', '.join(said)}." if said else f"No curve crosses that of {full}."


def _devices(table: Table, block: Block) -> str:
    first, *others = scatter.cost_devices(table, block.rows)
    left = f" (runs on {', '.join(map(text.clean, others))} are left out)" if others else ""
    return f"Medians over the runs on {text.clean(first)}{left}."


def _power(table: Table, block: Block) -> str:
    """Return what the ranks of a block can tell: fewer datasets than methods rarely part any two."""
    number, rows = sum(rank is not None for rank in block.ranks), len(ranks.complete_rows(table, block))
    difference = critical_difference(number, rows)
    average = [rank for rank in block.ranks if rank is not None]
    told = (
        "no two methods are further apart"
        if max(average) - min(average) < difference
        else "only pairs further apart differ"
    )
    where = text.heading(table, block)
    return (
        f"{f'{where}: ' if where else ''}average rank of {number} methods over {rows} datasets, ticks are single datasets. Nemenyi's critical "
        f"difference at α = 0.05 is {difference:.2f} of the {number - 1} ranks there are: {told}."
    )


def _labels(table: Table, row: int, *without: str) -> list[str]:
    """Return the labels of a row that tell it from other rows, and its dataset."""
    names = [
        name for name in table.spec.rows if name not in without and (name in text.varying(table) or name == "dataset")
    ]
    return [table.rows[row][name] for name in names]


def _slug(*words: str) -> str:
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:40] for word in words)))
