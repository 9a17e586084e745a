"""Which figures the records of a report can bear, with file names and captions."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from medpeft_cli.files import atomic_path
from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.figures import runs, samples, scores
from medpeft_cli.report.figures.style import encode, look
from medpeft_cli.report.run_files import history
from medpeft_cli.report.table import Block, Table, TableSpec, pivot

ROWS = 12  # of a table of which runs are drawn: the figures of a thousand runs stay readable
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


def not_drawn(report: Report) -> str:
    """Return a sentence on rows whose runs are not drawn because there are too many; "" if all are."""
    rows = sum(max(len(table.rows) - ROWS, 0) for table in figure_tables(report))
    return f"Curves, matrices and reliability of {rows} more rows are not drawn; each run has its own." if rows else ""


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
    for dataset, groups in _fraction_groups(table).items():
        yield Drawing(
            _slug("fractions", table.family, dataset),
            f"{metric} against training data, {text.clean(dataset)}",
            f"Mean over seeds, bars ± standard deviation. {_crossed(table, groups)}",
            partial(scores.fractions, table, groups),
        )
    if blocks := scores.blocks_with_parameters(table):
        several = any(len(block.rows) > 1 for block in blocks)
        yield Drawing(
            _slug("parameters", table.family),
            f"{metric} against trained parameters",
            f"{'Mean over the datasets. ' if several else ''}{FRONT.format('trained parameters')}",
            partial(scores.parameters, table),
        )
    for block in scores.main_blocks(table):
        if any(len(scores.cost_points(table, block, measure)) > 1 for measure in scores.COSTS.values()):
            yield Drawing(
                _slug(
                    "cost", table.family, *_labels(table, block.rows[0], table.across if len(block.rows) > 1 else "")
                ),
                f"{metric} against cost, {text.heading(table, block) or text.subtitle(table) or 'all runs'}",
                f"{FRONT.format('cost')} {_devices(table, block)}",
                partial(scores.cost, table, block),
            )
    if blocks := scores.ranked_blocks(table):
        yield Drawing(
            _slug("ranks", table.family),
            f"Ranks by {table.info.title}",
            " ".join(map(partial(_power, table), blocks)),
            partial(scores.ranks, table),
        )
    whole = [i for block in scores.main_blocks(table) for i in block.rows]
    for i in [*whole, *(i for i in range(len(table.rows)) if i not in whole)][:ROWS]:
        yield from _of_row(table, i)


FRONT = "Filled and joined: the Pareto front; hollow: another method is at least as good at no more {}."


def _of_row(table: Table, i: int) -> Iterator[Drawing]:
    cells, labels = table.cells[i], _labels(table, i)
    place = " · ".join(text.label(name, table.rows[i][name]) for name in table.spec.rows)
    if any(history(run) for cell in cells for run in cell.runs):
        yield Drawing(
            _slug("curves", table.family, *labels),
            f"Training curves, {place}",
            "Mean over seeds and their range.",
            partial(runs.curves, table, i),
        )
    if runs.scored(cells):
        yield Drawing(
            _slug("confusion", table.family, *labels),
            f"Confusion on the test split, {place}",
            "Sum over seeds; each row is 100 % of the images of a true class.",
            partial(runs.confusion, table, i),
        )
    if runs.calibrated(cells):
        yield Drawing(
            _slug("reliability", table.family, *labels),
            f"Reliability on the test split, {place}",
            "Test images of all seeds together in 15 bins of confidence, dots by their number; below the diagonal a "
            "method is too sure of itself. ECE of the pooled images.",
            partial(runs.reliabilities, table, i),
        )
    if shown := [run for cell in cells if (run := samples.shown_run(cell))]:  # noqa: SIM102
        if samples.common_prompts(shown):
            yield Drawing(
                _slug("samples", table.family, *labels),
                f"Generated pictures, {place}",
                "The same prompts and seeds by each method; where the prepared dataset is at hand, its picture is beside "
                "them, under the dataset's licence.",
                partial(samples.samples, table, i),
                photographs=True,
            )


def _fraction_groups(table: Table) -> dict[str, list[list[int]]]:
    """Return by dataset the groups of rows that differ in nothing but the fraction, and have scores at two or more."""
    if "fraction" not in table.spec.rows:
        return {}
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(table.rows):
        groups.setdefault(tuple(row[name] for name in table.spec.rows if name != "fraction"), []).append(i)
    found: dict[str, list[list[int]]] = {}
    for rows in groups.values():
        if any(len(scores.series(table, rows, j)) > 1 for j in range(len(table.columns))):
            found.setdefault(table.rows[rows[0]].get("dataset", "all"), []).append(rows)
    return found


def _crossed(table: Table, groups: Sequence[Sequence[int]]) -> str:
    """Return the crossovers in words."""
    columns = [j for group in groups if (j := scores.full_tuning(table, group)) is not None]
    if not columns:
        return "No curve of full fine-tuning to cross."
    full = " or ".join(dict.fromkeys(text.column_title(table.columns[j]) for j in columns))
    said = []
    for group in groups:
        where = " · ".join(_labels(table, group[0], "fraction", "dataset"))
        for name, places in scores.crossed(table, group):
            at = " and ".join(f"{x:.2g} %" for x in places)
            said.append(f"{name} at {at}{f' ({where})' if where and len(groups) > 1 else ''}")
    return f"Crossovers with {full}: {', '.join(said)}." if said else f"No curve crosses that of {full}."


def _devices(table: Table, block: Block) -> str:
    first, *others = scores.cost_devices(table, block.rows)
    left = f" (runs on {', '.join(map(text.clean, others))} are left out)" if others else ""
    return f"Medians over the runs on {text.clean(first)}{left}."


def _power(table: Table, block: Block) -> str:
    """Return what the ranks of a block can tell: fewer datasets than methods rarely part any two."""
    number, rows = sum(rank is not None for rank in block.ranks), len(scores.complete_rows(table, block))
    difference = scores.critical_difference(number, rows)
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
