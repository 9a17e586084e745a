"""Tests of each method of a table against one of them. Imports numpy and SciPy, and reads predictions: only where asked for."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
from scipy import stats

from medpeft_cli.errors import DataError
from medpeft_cli.metrics.names import CLASSIFICATION
from medpeft_cli.metrics.paired import Difference, delong, holm, mcnemar, paired_bootstrap, resampled
from medpeft_cli.metrics.predictions import Predictions, read_predictions
from medpeft_cli.report import text
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import Block, Table

RESAMPLES = 2000
SEED = 0  # of the resamples: all methods of a row meet the same ones
CONFIDENCE = 0.95
WILCOXON = 6  # datasets from which its signed-rank test can reach 0.05


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline on one test split; p values adjusted by Holm for the methods of the row.

    Attributes:
        column: of the method in the table.
        seeds: pairs of runs of equal seed.
        difference: of the metric's mean over the seeds, method − baseline, with the p of the paired bootstrap.
        p_mcnemar: the largest over the seeds, so that a small one holds for each.
        auroc: difference of the AUROCs, mean over the seeds.
        p_delong: as p_mcnemar.
    """

    column: int
    seeds: int
    difference: Difference
    p_mcnemar: float
    auroc: float
    p_delong: float


@dataclass(frozen=True)
class RowTests:
    """The comparisons of a row, and what its test split is."""

    row: int
    images: int
    units: int
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Effect:
    """A method against the baseline over datasets, each counted once.

    Attributes:
        column: of the method in the table.
        differences: method − baseline on each dataset.
        low, high: Student's interval of their mean, datasets as the sample.
        p_wilcoxon: adjusted by Holm for the methods; NaN of fewer than WILCOXON datasets.
    """

    column: int
    differences: tuple[float, ...]
    low: float
    high: float
    p_wilcoxon: float = math.nan

    @property
    def mean(self) -> float:
        """Mean difference."""
        return fmean(self.differences)


@dataclass(frozen=True)
class OverDatasets:
    """What the datasets of a block say together.

    Attributes:
        block: its place in the table.
        datasets: N that every method has.
        methods: k of them.
        effects: of each method against the baseline.
        friedman: statistic and p that all methods rank alike; None for fewer than 3 methods or 2 datasets.
        nemenyi: column → p against the baseline.
        critical_difference: of average ranks, α = 0.05.
    """

    block: int
    datasets: int
    methods: int
    effects: tuple[Effect, ...]
    friedman: tuple[float, float] | None = None
    nemenyi: dict[int, float] = field(default_factory=dict)
    critical_difference: float = math.nan


@dataclass(frozen=True)
class TableTests:
    """All tests of a table, and what could not be tested."""

    table: Table
    baseline: str
    rows: tuple[RowTests, ...]
    blocks: tuple[OverDatasets, ...]
    left_out: tuple[str, ...]


def compare(table: Table, baseline: str) -> TableTests:
    """Test the methods of a table against one of them.

    Args:
        table: of results.
        baseline: name of a method.
    """
    columns = [j for j in range(len(table.columns)) if _method(table, j) == baseline]
    if not columns:
        return TableTests(table, baseline, (), (), (f"no {baseline} in this table to compare with",))
    base = columns[0]  # of several variants the first
    title = text.column_title(table.columns[base])
    left_out: list[str] = []
    rows = []
    if table.spec.metric in CLASSIFICATION:
        found = (_row_tests(table, i, base, left_out) for i in range(len(table.rows)))
        rows = [tests for tests in found if tests and tests.comparisons]
    else:
        left_out.append(f"{table.info.title} has no value for each image: no paired test on one dataset")
    blocks = [over for b in range(len(table.blocks)) if (over := _over_datasets(table, b, base))]
    return TableTests(table, title, tuple(rows), tuple(blocks), tuple(left_out))


def smallest_wilcoxon_p(datasets: int) -> float:
    """Return the smallest two-sided p of Wilcoxon's signed-rank test of N pairs: 2 / 2ᴺ."""
    return 2.0 ** (1 - datasets)


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks (Demšar 2006, JMLR 7:1, eq. in 3.2.2).

    Args:
        methods: k ≥ 2.
        datasets: N ≥ 1.
        alpha: level, 0–1.
    """
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * datasets)))


def _method(table: Table, j: int) -> str:
    return next(run.method for row in table.cells for run in (*row[j].runs, *row[j].others))


def _row_tests(table: Table, i: int, base: int, left_out: list[str]) -> RowTests | None:
    """Compare the methods of a row; what cannot be read or paired is added to `left_out`."""
    where = text.row_label(table, i)
    scored: dict[int, dict[int, Predictions]] = {}  # column → seed → predictions
    wanted = {run.seed for run in table.cells[i][base].runs}
    for j, cell in enumerate(table.cells[i]):
        for run in cell.runs:
            if run.seed not in wanted:
                continue
            try:
                scored.setdefault(j, {})[run.seed] = _read(run)
            except DataError as error:
                said = error.message.replace(f"{run.folder}/", "")  # the same words wherever the results lie
                left_out.append(f"{text.clean(run.id, 120)}: {text.clean(said, 200)}")
    if base not in scored:
        others = len([j for j in scored if j != base])
        if others or any(cell.runs for cell in table.cells[i]):
            left_out.append(f"{where}: no predictions of {text.column_title(table.columns[base])} to compare with")
        return None
    reference = next(iter(scored[base].values()))
    units = np.unique(np.array(reference.groups), return_inverse=True)[1]
    number = int(units.max()) + 1 if len(units) else 0
    if number < 2:
        left_out.append(f"{where}: {number} patient or image in the test split: nothing to compare")
        return None
    for j, runs in scored.items():
        for seed in [
            seed for seed, one in runs.items() if one.ids != reference.ids or (one.labels != reference.labels).any()
        ]:
            left_out.append(f"{where}: {text.column_title(table.columns[j])}, seed {seed}: other test images or labels")
            del runs[seed]
    drawn = {
        (j, seed): resampled(table.spec.metric, one.probabilities, one.labels, units, RESAMPLES, SEED)
        for j, runs in scored.items()
        for seed, one in runs.items()
    }
    made = []
    for j, runs in scored.items():
        seeds = sorted(runs.keys() & scored[base].keys())
        if j != base and seeds:
            pairs = [(scored[base][seed], runs[seed]) for seed in seeds]
            first, second = (np.mean([drawn[column, seed] for seed in seeds], axis=0) for column in (base, j))
            made.append(_comparison(j, pairs, paired_bootstrap(first, second, CONFIDENCE), units))
    adjusted = [
        holm([getter(each) for each in made])
        for getter in (lambda c: c.difference.p, lambda c: c.p_mcnemar, lambda c: c.p_delong)
    ]
    return RowTests(i, len(units), number, tuple(
        Comparison(c.column, c.seeds, c.difference._replace(p=p), mcnemar_p, c.auroc, delong_p)
        for c, p, mcnemar_p, delong_p in zip(made, *adjusted, strict=True)
    ))  # fmt: skip


def _comparison(
    column: int, pairs: Sequence[tuple[Predictions, Predictions]], difference: Difference, units: np.ndarray
) -> Comparison:
    rights = [[one.probabilities.argmax(axis=1) == one.labels for one in pair] for pair in pairs]
    areas = [delong(first.probabilities, second.probabilities, first.labels, units) for first, second in pairs]
    return Comparison(
        column,
        len(pairs),
        difference,
        _largest(mcnemar(first, second, units) for first, second in rights),
        fmean(area for area, _ in areas),
        _largest(p for _, p in areas),
    )


def _largest(values: Iterable[float]) -> float:
    """Return the largest p; NaN if any is."""
    return max(values, key=lambda p: math.inf if math.isnan(p) else p)


def _read(run: Run) -> Predictions:
    return read_predictions(run.folder / "predictions.csv", list(run.test.per_class) if run.test else [])


def _over_datasets(table: Table, b: int, base: int) -> OverDatasets | None:
    """Return effects over the datasets of a block; None unless there are two, each once."""
    block = table.blocks[b]
    if table.across != "dataset" or not _once(table, block):
        return None
    effects = []
    for j in range(len(table.columns)):
        pairs = [(table.cells[i][base].mean, table.cells[i][j].mean) for i in block.rows]
        apart = tuple(mine - other for other, mine in pairs if mine is not None and other is not None)
        if j != base and len(apart) > 1:
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(apart) - 1) * stats.sem(apart))
            effects.append(Effect(j, apart, fmean(apart) - half, fmean(apart) + half))
    if not effects:
        return None
    adjusted = holm([_wilcoxon(effect.differences) for effect in effects])
    effects = [replace(effect, p_wilcoxon=p) for effect, p in zip(effects, adjusted, strict=True)]
    used = [j for j in range(len(table.columns)) if any(table.cells[i][j].values for i in block.rows)]
    complete = [i for i in block.rows if all(table.cells[i][j].values for j in used)]
    if len(used) < 3 or len(complete) < 2:
        return OverDatasets(b, len(complete), len(used), tuple(effects))
    return _ranked(table, b, base, used, complete, tuple(effects))


def _wilcoxon(differences: Sequence[float]) -> float:
    if len(differences) < WILCOXON:
        return math.nan
    return float(stats.wilcoxon(differences).pvalue) if any(differences) else 1.0


def _ranked(
    table: Table, b: int, base: int, used: list[int], complete: list[int], effects: tuple[Effect, ...]
) -> OverDatasets:
    """Add Friedman's test and Nemenyi's: on the printed digits, as the ranks beside them."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    sign = -1 if table.info.higher_is_better else 1
    values = np.array(
        [[sign * round(table.cells[i][j].mean or 0.0, table.info.digits) for j in used] for i in complete]
    )
    friedman = None
    if np.ptp(values, axis=1).any():
        found = stats.friedmanchisquare(*values.T)
        friedman = (float(found.statistic), float(found.pvalue))
    p = posthoc_nemenyi_friedman(values).to_numpy()
    against = {j: float(p[used.index(base), k]) for k, j in enumerate(used) if j != base} if base in used else {}
    return OverDatasets(
        b, len(complete), len(used), effects, friedman, against, critical_difference(len(used), len(complete))
    )


def _once(table: Table, block: Block) -> bool:
    """Return whether each dataset is there once: two versions of one are no sample of two."""
    titles = [
        next(run.card.title for cell in table.cells[i] for run in (*cell.runs, *cell.others) if run.card)
        for i in block.rows
    ]
    return len(set(titles)) == len(titles) > 1
