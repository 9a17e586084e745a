"""Score against training data, with its crossovers: the paper's Figure 1."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medpeft_cli.report.figures.panels import PANEL, better, panels, place
from medpeft_cli.report.figures.style import legend, metric_label, new_figure, styles
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import Cell, Table


def share(run: Run) -> float | None:
    """Return the share of the training split in percent; None for a run on k images per class."""
    fraction = run.setting("data", "fraction")
    return 100 * fraction if run.setting("data", "k_shot") is None and isinstance(fraction, int | float) else None


def series(table: Table, rows: Iterable[int], column: int) -> list[tuple[float, Cell]]:
    """Return (percent of the training split, cell) of the cells of a column that have a value, ascending."""
    cells = [table.cells[i][column] for i in rows]
    placed = [(share(cell.runs[0]), cell) for cell in cells if cell.values]
    return sorted(((x, cell) for x, cell in placed if x), key=lambda pair: pair[0])


def crossovers(ours: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]]) -> list[float]:
    """Return where a curve of scores crosses another one, ascending.

    Between two fractions that both have, both are straight lines over the logarithm of the fraction, as they are drawn. A point
    where they touch and part on the same side is no crossing.

    Args:
        ours: (x > 0, score), ascending.
        base: of the method that it is compared with.
    """
    other = dict(base)
    found = []
    last: tuple[float, float] | None = None
    equal: float | None = None  # where both were equal since then
    for x, gap in ((math.log(x), y - other[x]) for x, y in ours if x in other):
        if gap == 0:
            equal = x if equal is None else equal
            continue
        if last and last[1] * gap < 0:
            straight = last[0] + (x - last[0]) * last[1] / (last[1] - gap)
            found.append(math.exp(straight if equal is None else equal))
        last, equal = (x, gap), None
    return found


def fractions(table: Table, rows: Sequence[Sequence[int]]) -> Figure:
    """Draw score against data, a panel for each group of rows that differ in the fraction only; lines mark crossovers.

    Bars are ± the standard deviation over seeds.
    """
    figure = new_figure(PANEL * -(-len(rows) // 2) + 0.8, demo=table.demo)
    looks = styles(table)
    used = [j for j in range(len(looks)) if any(len(series(table, group, j)) > 1 for group in rows)]
    for axes, group in zip(panels(figure, len(rows)), rows, strict=False):
        full = full_tuning(table, group)
        base = _means(table, group, full) if full is not None else []
        for j in used:
            points = series(table, group, j)
            if not points:
                continue
            x, cells = zip(*points, strict=True)
            axes.errorbar(
                x, [cell.mean for cell in cells], [cell.sd or 0 for cell in cells], **looks[j].line, elinewidth=0.7, capsize=1.5
            )  # fmt: skip
            for at in crossovers(_means(table, group, j), base) if base and j != full else ():
                axes.axvline(at, color=looks[j].colour, linestyle=looks[j].dash, linewidth=0.8, alpha=0.8)
                axes.annotate(
                    f"{at:.2g} %", (at, 0.01), xycoords=("data", "axes fraction"), xytext=(2, 0), fontsize=6.5,
                    textcoords="offset points", color=looks[j].colour, rotation=90, va="bottom",
                )  # fmt: skip
        _percent_axis(axes, {x for j in used for x, _ in series(table, group, j)})
        axes.set_title(place(table, group[0], "fraction"))
        axes.set(xlabel="training images, % (logarithmic)", ylabel=metric_label(table))
    legend(figure, [looks[j] for j in used])
    return figure


def best_first(table: Table, rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the columns that have a curve: full fine-tuning, then the best score on the most data first."""
    ends: dict[int, float] = {}
    for group in rows:
        for j in range(len(table.columns)):
            points = _means(table, group, j)
            if len(points) > 1:
                ends[j] = min(better(table, points[-1][1]), ends.get(j, math.inf))
    full = {full_tuning(table, group) for group in rows}
    return sorted(ends, key=lambda j: (j not in full, ends[j]))


def crossed(table: Table, rows: Sequence[int]) -> list[tuple[str, list[float]]]:
    """Return the methods whose curve crosses full fine-tuning's, each with the percentages where it does."""
    looks = styles(table)
    full = full_tuning(table, rows)
    base = _means(table, rows, full) if full is not None else []
    found = [(look.name, crossovers(_means(table, rows, j), base)) for j, look in enumerate(looks) if j != full]
    return [(name, places) for name, places in found if places]


def full_tuning(table: Table, rows: Sequence[int]) -> int | None:
    """Return the column of full fine-tuning, of several recipes the first that has a curve in these rows; None without one."""
    columns = {j for i in rows for j, cell in enumerate(table.cells[i]) if cell.runs and cell.runs[0].method == "full"}
    return next((j for j in sorted(columns) if len(_means(table, rows, j)) > 1), None)


def _means(table: Table, rows: Iterable[int], column: int) -> list[tuple[float, float]]:
    return [(x, cell.mean) for x, cell in series(table, rows, column) if cell.mean is not None]


def _percent_axis(axes: Axes, shares: set[float]) -> None:
    axes.set_xscale("log")
    ticks = sorted(shares, reverse=True)
    apart = [x for x, above in zip(ticks, [math.inf, *ticks], strict=False) if above > 1.3 * x]  # labels do not touch
    axes.set_xticks(apart, [f"{x:.3g}" for x in apart])
    axes.minorticks_off()
