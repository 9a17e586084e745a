"""Pivot runs into tables: mean and spread over seeds, best and second, ranks, and what is missing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev

from medpeft_cli.metrics.names import METRIC_INFO, MetricInfo
from medpeft_cli.report.dimensions import Entry, labelled, placeable, tell_recipes_apart, unnamed
from medpeft_cli.report.ranks import marks, ranks
from medpeft_cli.report.records import Run

RANK_DIGITS = 2


@dataclass(frozen=True)
class TableSpec:
    """What a table shows. The best is sought along each row, so the columns hold what is compared.

    Attributes:
        name: of the layout; "table2" to "table5" are the paper's.
        rows: names of dimensions, outermost last.
        columns: names of dimensions.
        metric: a name of METRIC_INFO.
        across: the dimension in which the rows of a block differ, over which there are means and ranks; None = datasets if
            they differ, else fractions, which have neither.
        together: one average rank over all rows instead of one in each block, as in the paper's Table 3.
        ties: of the ranks, a name of TIES.
        turned: shown with the methods as rows.
    """

    name: str = "runs"
    rows: tuple[str, ...] = ("dataset", "backbone", "fraction")
    columns: tuple[str, ...] = ("method",)
    metric: str = "f1_macro"
    across: str | None = None
    together: bool = False
    ties: str = "average"
    turned: bool = False


@dataclass(frozen=True)
class Cell:
    """All runs of one recipe over seeds.

    Attributes:
        runs: with a defined value of the metric, by seed; sd is the sample standard deviation (n − 1), None for one.
        others: failed, cancelled, running, not scored, or with an undefined value.
        interval: bootstrap interval over test images, for a single run only.
        mark: "best", "second" or "" within its row.
        rank: place within its row, 1 = best.
    """

    runs: tuple[Run, ...] = ()
    others: tuple[Run, ...] = ()
    values: tuple[float, ...] = ()
    mean: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None
    mark: str = ""
    rank: float | None = None

    @property
    def state(self) -> str:
        """Why there is no value: missing, failed, cancelled, running, not scored, undefined; "" if there is one."""
        if self.values:
            return ""
        return other_state(self.others[0]) if self.others else "missing"


@dataclass(frozen=True)
class Block:
    """Rows that differ in one dimension only, the table's `across`. Means and ranks are over datasets, or over what the spec says.

    Attributes:
        rows: their indices.
        parameters: for each column (method counts, head counts) seen in it, sorted; None without any.
        means: for each column the mean over the rows; None unless it has a value in every row, of which there are 2 or more.
        ranks: for each column its average rank over the rows that are complete; None if fewer than 2 are.
        mean_marks, rank_marks: "best", "second" or "" for each of them.
        ranked_rows: number of complete rows.
    """

    rows: tuple[int, ...]
    parameters: tuple[tuple[tuple[int, ...], tuple[int, ...]] | None, ...]
    means: tuple[float | None, ...]
    mean_marks: tuple[str, ...]
    ranks: tuple[float | None, ...]
    rank_marks: tuple[str, ...]
    ranked_rows: int


@dataclass(frozen=True)
class Table:
    """A pivoted table; `cells[i][j]` is in row i and column j. Labels are raw text: renderers escape and shorten.

    Attributes:
        across: the dimension in which the rows of a block differ.
        combined: all rows as one block, for the ranks that a spec wants together; None where there is one block, or none wanted.
        added: dimensions of the rows that nobody asked for, but in which the runs differ.
    """

    spec: TableSpec
    info: MetricInfo
    family: str
    demo: bool
    results_revision: int
    rows: tuple[Mapping[str, str], ...]
    columns: tuple[Mapping[str, str], ...]
    cells: tuple[tuple[Cell, ...], ...]
    across: str
    blocks: tuple[Block, ...]
    combined: Block | None = None
    added: tuple[str, ...] = ()

    @cached_property
    def seeds(self) -> list[int]:
        """The numbers of seeds that occur in cells, the most frequent first."""
        numbers = Counter(len(cell.values) for row in self.cells for cell in row if cell.values)
        return sorted(numbers, key=lambda number: (-numbers[number], -number))

    @property
    def judged(self) -> str:
        """How the generated pictures of all its runs were made and compared; "" for other tables."""
        return next((run.judged for run in self.runs if run.judged), "")

    @cached_property
    def usual_seeds(self) -> list[int]:
        """As many seeds as most cells have, those that most runs have; finished or not."""
        tried = Counter(run.seed for row in self.cells for cell in row for run in (*cell.runs, *cell.others))
        return [seed for seed, _ in tried.most_common(max(self.seeds[0] if self.seeds else 1, 1))]

    @cached_property
    def runs(self) -> list[Run]:
        """All runs behind the values."""
        return [run for row in self.cells for cell in row for run in cell.runs]


def other_state(run: Run) -> str:
    """Return why a run gives no value."""
    if run.test:
        return "undefined"
    return "not scored" if run.status in ("trained", "finished") else run.status


def pivot(runs: Iterable[Run], spec: TableSpec) -> list[Table]:
    """Return one table for each (demo, results revision, family): these are never mixed.

    Neither are generated pictures that were made or compared in two ways; runs without scores join the more usual one.
    Runs of another setting (dataset and its version, backbone, amount of data, method) stay apart as rows of their own, asked
    for or not; recipes that would meet in one cell stay apart as columns that name what differs.
    """
    families = defaultdict(list)
    for run in runs:
        if placeable(run):
            families[run.demo, -run.results_revision, str(run.family)].append(run)
    apart = defaultdict(list)
    for key, members in families.items():
        ways = Counter(run.judged for run in members if run.test)
        usual = max(sorted(ways), key=lambda way: ways[way], default="")
        for run in members:
            apart[*key, run.judged if run.test else usual].append(run)
    return [_table(apart[key], spec) for key in sorted(apart)]


def _table(runs: list[Run], spec: TableSpec) -> Table:
    info = METRIC_INFO[spec.metric]
    entries = labelled(runs, (*spec.rows, *spec.columns))
    added = unnamed(entries, (*spec.rows, *spec.columns))
    spec = replace(spec, rows=(*spec.rows, *added))
    tell_recipes_apart(entries, spec.rows, spec.columns)
    varied = (name for name in ("dataset", "fraction") if _varies(entries, spec, name))
    across = spec.across or next(varied, spec.rows[0])
    outer = [name for name in spec.rows if name != across]  # varies slower, so that the rows of a block are neighbours
    rows = _axis(entries, spec.rows, [*outer, across])
    columns = _axis(entries, (*spec.columns, "variant"), [*spec.columns, "variant"])
    members = defaultdict(list)
    for entry in entries:
        members[entry.key(spec.rows), entry.key((*spec.columns, "variant"))].append(entry.run)
    cells = [_marked([_cell(members[row, column], spec.metric) for column in columns], info, spec.ties) for row in rows]

    grouped = defaultdict(list)
    for i, row in enumerate(rows):
        grouped[tuple(label for name, label in zip(spec.rows, row, strict=True) if name != across)].append(i)
    units = {}  # two versions of a dataset are one unit
    for entry in entries:
        unit = entry.title if across == "dataset" else entry.labels[across]
        units[entry.key(spec.rows)] = (unit, *(entry.labels[name] for name in outer))

    def block(indices: list[int]) -> Block:
        counted = [units[rows[i]] for i in indices] if across in ("dataset", spec.across) else []
        return _block([cells[i] for i in indices], indices, counted, info)

    blocks = tuple(block(indices) for indices in grouped.values())
    first = entries[0].run
    return Table(
        spec,
        info,
        str(first.family),
        first.demo,
        first.results_revision,
        tuple(dict(zip(spec.rows, row, strict=True)) for row in rows),
        tuple(dict(zip((*spec.columns, "variant"), column, strict=True)) for column in columns),
        tuple(map(tuple, cells)),
        across,
        blocks,
        block(list(range(len(rows)))) if spec.together and len(blocks) > 1 else None,
        added,
    )


def _varies(entries: list[Entry], spec: TableSpec, name: str) -> bool:
    return name in spec.rows and len({entry.labels[name] for entry in entries}) > 1


def _axis(entries: list[Entry], names: Sequence[str], order: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the distinct label tuples, sorted by the dimensions in `order`."""
    places = {
        entry.key(names): tuple((entry.order[name], entry.labels[name]) for name in order)
        for entry in reversed(entries)
    }
    return sorted(places, key=places.__getitem__)


def _cell(runs: list[Run], metric: str) -> Cell:
    scored = []
    others = []
    for run in sorted(runs, key=lambda run: (run.seed, run.id)):
        estimate = run.test.overall.get(metric) if run.test else None
        if estimate and estimate.value is not None:
            scored.append((run, estimate))
        else:
            others.append(run)
    if not scored:
        return Cell(others=tuple(others))
    values = tuple(float(estimate.value) for _, estimate in scored if estimate.value is not None)
    only = scored[0][1]
    return Cell(
        tuple(run for run, _ in scored),
        tuple(others),
        values,
        fmean(values),
        stdev(values) if len(values) > 1 else None,
        (only.low, only.high) if len(values) == 1 and only.low is not None and only.high is not None else None,
    )


def _marked(cells: list[Cell], info: MetricInfo, ties: str) -> list[Cell]:
    """Mark and rank the cells of a row by what is printed."""
    sign = -1 if info.higher_is_better else 1
    printed = [sign * round(cell.mean, info.digits) for cell in cells if cell.mean is not None]
    places = iter(ranks(printed, ties))
    row_marks = marks([cell.mean for cell in cells], info.digits, info.higher_is_better)
    return [
        cell if cell.mean is None else replace(cell, mark=mark, rank=next(places))
        for cell, mark in zip(cells, row_marks, strict=True)
    ]


def _block(cells: list[list[Cell]], rows: list[int], units: list[tuple[str, ...]], info: MetricInfo) -> Block:
    columns = list(zip(*cells, strict=True))
    used = [any(cell.values for cell in column) for column in columns]
    complete = [row for row in cells if all(cell.values for cell, inside in zip(row, used, strict=True) if inside)]
    once = len(set(units)) == len(rows)  # two versions of a dataset would count it twice
    ranked = len(complete) if once and sum(used) > 1 and len(complete) > 1 else 0
    parameters: list[tuple[tuple[int, ...], tuple[int, ...]] | None] = []
    means: list[float | None] = []
    average: list[float | None] = []
    for j, column in enumerate(columns):
        counts = [run.parameters for cell in column for run in cell.runs if run.parameters]
        seen = (tuple(sorted({c.method for c in counts})), tuple(sorted({c.head for c in counts})))
        parameters.append(seen if counts else None)
        values = [cell.mean for cell in column if cell.mean is not None]
        means.append(fmean(values) if once and len(values) == len(column) > 1 else None)
        places = [rank for row in complete if (rank := row[j].rank) is not None]
        average.append(fmean(places) if ranked and used[j] else None)
    return Block(
        tuple(rows),
        tuple(parameters),
        tuple(means),
        tuple(marks(means, info.digits, info.higher_is_better)),
        tuple(average),
        tuple(marks(average, RANK_DIGITS, False)),
        ranked,
    )
