"""`medpeft report`: a folder of results → tables and what could not be used."""

from dataclasses import dataclass
from pathlib import Path

from medpeft_cli.errors import DataError
from medpeft_cli.metrics.names import METRIC_INFO
from medpeft_cli.registry import lookup
from medpeft_cli.report.dimensions import placeable
from medpeft_cli.report.records import Problem, Run, read_records
from medpeft_cli.report.table import Table, TableSpec, pivot

USUAL = {"unet": "fid"}  # metric of a family's table, where it is not macro F1


@dataclass(frozen=True)
class Report:
    """Everything a rendering needs.

    Attributes:
        tables: real results before demo ones, never mixed.
        unplaced: runs that ended before they knew their place in a table.
        problems: records that could not be read, or were there twice.
    """

    tables: tuple[Table, ...]
    unplaced: tuple[Run, ...]
    problems: tuple[Problem, ...]

    @property
    def revisions(self) -> set[int]:
        """Results revisions in the report."""
        return {table.results_revision for table in self.tables}


def build_report(results: Path, metric: str | None = None) -> Report:
    """Read all records under `results` and pivot them: rows dataset × backbone × fraction, columns methods.

    Args:
        results: folder of runs.
        metric: of every table; None = macro F1, and FID for text-to-image.

    Raises:
        DataError: if there is no such folder, or no record under it.
        RecipeError: if the metric is unknown.
    """
    if metric is not None:
        lookup("metric", METRIC_INFO, metric)
    runs, problems = read_records(results)
    if not runs and not problems:
        raise DataError(
            f"{results}: no record.json under it", "run `medpeft finetune recipes/isic_ssf.yaml --demo` first"
        )
    unplaced = tuple(run for run in runs if not placeable(run))
    chosen = [(run, metric or USUAL.get(str(run.family), "f1_macro")) for run in runs]
    tables = []
    for name in dict.fromkeys(name for _, name in chosen):
        tables += pivot([run for run, wanted in chosen if wanted == name], TableSpec(metric=name))
    tables.sort(key=lambda table: (table.demo, -table.results_revision, table.family))
    return Report(tuple(tables), unplaced, tuple(problems))
