"""`medpeft report`: a folder of results → tables and what could not be used."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medpeft_cli.errors import DataError
from medpeft_cli.metrics.names import CLASSIFICATION, GENERATION, METRIC_INFO
from medpeft_cli.registry import lookup
from medpeft_cli.report.dimensions import chosen, dimension, placeable
from medpeft_cli.report.layouts import arranged
from medpeft_cli.report.paper import Printed, printed, ties
from medpeft_cli.report.records import Problem, Run, read_records
from medpeft_cli.report.sheet import Sheet, table_names, table_sheets
from medpeft_cli.report.table import Table, TableSpec, pivot
from medpeft_cli.report.text import leftovers

if TYPE_CHECKING:
    from medpeft_cli.report.comparisons import TableTests


@dataclass(frozen=True)
class Question:
    """What the user asked a report for.

    Attributes:
        metric: of every table; None = macro F1, and FID for text-to-image.
        rows, columns: dimensions of one table instead of the paper's; empty = the paper's layouts.
        where: dimension → the labels, or names as a recipe has them, that a run may have.
        against_paper: put the paper's printed numbers beside ours, and rank by its rules for ties.
        baseline: method that all others are tested against; None = no tests.
    """

    metric: str | None = None
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    where: Mapping[str, Collection[str]] | None = None
    against_paper: bool = False
    baseline: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything a rendering needs.

    Attributes:
        results: the folder.
        question: what was asked.
        runs: every run that is in a table, in order of their path.
        tables: real results before demo ones, never mixed.
        unplaced: runs that ended before they knew their place in a table.
        problems: records that could not be read, or were there twice; runs that have no such metric.
        filtered: which runs were asked for by `where`, and how many others there are, as a sentence; "" for all.
    """

    results: Path
    question: Question
    runs: tuple[Run, ...]
    tables: tuple[Table, ...]
    unplaced: tuple[Run, ...]
    problems: tuple[Problem, ...]
    filtered: str

    @property
    def revisions(self) -> set[int]:
        """Results revisions in the report."""
        return {table.results_revision for table in self.tables}

    @cached_property
    def names(self) -> list[str]:
        """A name for each table, unique in the report, for labels and files: letters, digits and hyphens."""
        return table_names(self.tables)

    @cached_property
    def sheets(self) -> list[Sheet]:
        """The tables as they are printed, in order; the tests of a table follow it."""
        tables = [(table, self.printed(table)) for table in self.tables]
        sheets = table_sheets(tables, self.names, self.revisions, self.filtered)
        if not self.tests:
            return sheets
        from medpeft_cli.report.comparison_sheets import comparison_sheets

        return sheets + [
            sheet for i, tests in enumerate(self.tests) for sheet in comparison_sheets(tests, self.names[i])
        ]

    @cached_property
    def tests(self) -> list["TableTests"]:
        """The tests of each table against the baseline, where they were asked for. Reads predictions."""
        if self.question.baseline is None:
            return []
        from medpeft_cli.report.comparisons import compare

        return [compare(table, self.question.baseline) for table in self.tables]

    def printed(self, table: Table) -> Printed | None:
        """The paper's numbers beside a table, where they were asked for and it has some."""
        return printed(table) if self.question.against_paper else None


def build_report(results: Path, question: Question = Question()) -> Report:
    """Read all records under `results` and pivot them into the paper's layouts, or into the rows and columns asked for.

    Raises:
        DataError: if there is no such folder, no record under it that can be used, or no run that was asked for.
        RecipeError: if a metric or a dimension is unknown.
    """
    if question.metric is not None:
        lookup("metric", METRIC_INFO, question.metric)
    for name in (*question.rows, *question.columns):
        dimension(name)
    runs, problems = _read(results)
    unplaced = tuple(run for run in runs if not placeable(run))
    placed = [run for run in runs if placeable(run)]
    asked = chosen(placed, question.where or {})
    if question.where and not asked:
        raise DataError(f"{results}: no run with {_said(question.where)}", _known(runs, question.where))
    if question.baseline is not None:
        lookup("method of these runs", {run.method: run for run in asked}, question.baseline)
    tables: list[Table] = []
    for metric, mine in _by_metric(asked, question.metric, problems).items():
        specs = (
            [(_spec(question, metric), mine)]
            if question.rows or question.columns
            else arranged(mine, metric, ties() if question.against_paper else {})
        )
        for spec, members in specs:
            tables += pivot(members, spec)
    tables.sort(key=lambda table: (table.demo, -table.results_revision))
    filtered = (
        f"Only runs with {_said(question.where)}; {len(placed) - len(asked):,} others left out"
        if question.where
        else ""
    )
    return Report(results, question, tuple(asked), tuple(tables), unplaced, tuple(problems), filtered)


def _read(results: Path) -> tuple[list[Run], list[Problem]]:
    runs, problems = read_records(results)
    if not runs and not problems:
        raise DataError(
            f"{results}: no record.json under it", "run `medpeft finetune recipes/isic_ssf.yaml --demo` first"
        )
    if not runs:
        listed = "".join(f"\n  {line}" for line in leftovers((), problems))
        raise DataError(f"{results}: no record.json under it can be used{listed}", "was the folder copied whole?")
    return runs, problems


def _by_metric(runs: Sequence[Run], metric: str | None, problems: list[Problem]) -> dict[str, list[Run]]:
    """Return the runs of each metric that is shown; a run whose task has no such metric becomes a problem."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        known = GENERATION if run.family == "unet" else CLASSIFICATION
        shown = metric or next(name for name in ("f1_macro", "fid") if name in known)
        if shown in known:
            groups.setdefault(shown, []).append(run)
        else:
            problems.append(Problem(run.id, f"its task has no {METRIC_INFO[shown].title}"))
    return groups


def _spec(question: Question, metric: str) -> TableSpec:
    """Return the one table that the user asked for. Methods in its rows are compared downwards."""
    turned = "method" in question.rows
    rows, columns = (question.columns, question.rows) if turned else (question.rows, question.columns)
    columns = columns or TableSpec.columns
    rows = rows or tuple(name for name in TableSpec.rows if name not in columns)
    return TableSpec(rows=rows, columns=columns, metric=metric, turned=turned)


def _said(where: Mapping[str, Collection[str]]) -> str:
    return ", ".join(f"{name}={' or '.join(wanted)}" for name, wanted in where.items())


def _known(runs: Sequence[Run], where: Mapping[str, Collection[str]]) -> str:
    """Return the labels that there are in the dimensions that were asked for."""
    listed = []
    for name in where:
        labels = dict(sorted({dimension(name)(run) for run in runs if placeable(run)}, key=lambda pair: pair[0]))
        listed.append(f"{name}: {', '.join(labels)}")
    return "; ".join(listed)
