"""Figures of a table's scores: against data (the paper's Figure 1), parameters (Figure 3) and cost, and the ranks."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from medpeft_cli.report import text
from medpeft_cli.report.figures.style import BLACK, GREY, PALE, Style, label, legend, metric_label, new_figure, styles
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import RANK_DIGITS, Block, Cell, Table

PANEL = 2.5  # inches: height of a row of panels


class Point(NamedTuple):
    """A method in a figure of score against something."""

    x: float
    y: float
    sd: float
    style: Style


# score against data ---------------------------------------------------------------------------------------------


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
    for axes, group in zip(_panels(figure, len(rows)), rows, strict=False):
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
        axes.set_title(_place(table, group[0], "fraction"))
        axes.set(xlabel="training images, % (logarithmic)", ylabel=metric_label(table))
    legend(figure, [looks[j] for j in used])
    return figure


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


# score against parameters and cost ----------------------------------------------------------------------------------


def pareto(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """Return the points that no other beats: none has at most their x and a better score, or less x and an equal one."""
    sign = 1 if higher_is_better else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -sign * each.y)):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def main_blocks(table: Table) -> list[Block]:
    """Return the blocks of whole training splits; all blocks where there are none of these."""
    whole = [
        block for block in table.blocks
        if any(share(run) == 100 for i in block.rows for cell in table.cells[i] for run in (*cell.runs, *cell.others))
    ]  # fmt: skip
    return whole or list(table.blocks)


def ranked_blocks(table: Table) -> list[Block]:
    """Return the blocks that have average ranks."""
    return [block for block in main_blocks(table) if block.ranked_rows]


def parameters(table: Table) -> Figure:
    """Draw score against trained parameters, head included, a panel for each block; its mean over datasets where it has several."""
    blocks = blocks_with_parameters(table)
    figure = new_figure(PANEL * 1.3 * -(-len(blocks) // 2) + 0.3, demo=table.demo)
    for axes, block in zip(_panels(figure, len(blocks)), blocks, strict=False):
        _scatter(axes, table, _parameter_points(table, block))
        axes.set_title(_place(table, block.rows[0], table.across if len(block.rows) > 1 else ""))
        axes.set_xlabel("trained parameters, head included ↓")
    return figure


def blocks_with_parameters(table: Table) -> list[Block]:
    """Return the blocks in which at least two methods have a score and a count."""
    return [block for block in main_blocks(table) if len(_parameter_points(table, block)) > 1]


def _parameter_points(table: Table, block: Block) -> list[Point]:
    points = []
    for look, seen, (y, sd) in zip(styles(table), block.parameters, _block_scores(table, block), strict=True):
        if seen and y is not None and (count := fmean(seen[0]) + fmean(seen[1])) > 0:
            points.append(Point(count, y, sd, look))
    return points


def _block_scores(table: Table, block: Block) -> list[tuple[float | None, float]]:
    """Return (score, sd) of each column: the only row's, or the mean over datasets."""
    if len(block.rows) > 1:
        return [(mean, 0.0) for mean in block.means]
    return [(cell.mean, cell.sd or 0.0) for cell in table.cells[block.rows[0]]]


Measure = Callable[[Run], float | None]


def _recorded(part: str, name: str, unit: float) -> Measure:
    def measure(run: Run) -> float | None:
        value = getattr(run, part).get(name)
        return value / unit if isinstance(value, int | float) and value > 0 else None

    return measure


COSTS: dict[str, Measure] = {
    "peak memory of training, GB ↓": _recorded("memory", "peak_bytes", 1e9),
    "training time of a run, minutes ↓": _recorded("timing", "train_seconds", 60),
    "training energy of a run, Wh (GPU board only) ↓": _recorded("energy", "train_joules", 3600),
}
"""What a run costs, by axis label; a record may lack any of them."""


def device(run: Run) -> str:
    """Return what a run was computed on: costs of two devices are never compared."""
    return str(run.environment.get("name") or run.environment.get("device") or "unknown device")


def cost_devices(table: Table, rows: Iterable[int]) -> list[str]:
    """Return the devices of some rows' runs, the most frequent first."""
    names = [device(run) for i in rows for cell in table.cells[i] for run in cell.runs]
    return sorted(set(names), key=lambda name: (-names.count(name), name))


def cost_points(table: Table, block: Block, measure: Measure) -> list[Point]:
    """Return cost and score of each column of a block: medians of runs on its most frequent device, over the rows all have."""
    on = next(iter(cost_devices(table, block.rows)), "")
    points = []
    for j, (look, (y, sd)) in enumerate(zip(styles(table), _block_scores(table, block), strict=True)):
        each = [
            [cost for run in table.cells[i][j].runs if device(run) == on and (cost := measure(run)) is not None]
            for i in block.rows
        ]
        if y is not None and all(each):
            points.append(Point(fmean(map(median, each)), y, sd, look))
    return points


def cost(table: Table, block: Block) -> Figure:
    """Draw score against each cost that is recorded; see `cost_points`."""
    known = [name for name, measure in COSTS.items() if len(cost_points(table, block, measure)) > 1]
    figure = new_figure(PANEL * 1.3 * -(-len(known) // 2) + 0.3, demo=table.demo)
    for axes, name in zip(_panels(figure, len(known)), known, strict=False):
        _scatter(axes, table, cost_points(table, block, COSTS[name]))
        axes.set_xlabel(name)
    return figure


def _scatter(axes: Axes, table: Table, points: list[Point]) -> None:
    """Draw points with their names, those on the Pareto front filled and joined by a step line."""
    front = pareto(points, table.info.higher_is_better)
    low, high = min(p.x for p in points), max(p.x for p in points)
    if high > 8 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda x, _: _thousands(x) if x >= 1000 else f"{x:g}")
        axes.minorticks_off()
    axes.step([p.x for p in front], [p.y for p in front], where="post", color=GREY, linewidth=1, zorder=1)
    for point in points:
        face = point.style.colour if point in front else "white"
        axes.errorbar(
            point.x, point.y, point.sd or None, color=point.style.colour, marker=point.style.marker, linestyle="",
            markerfacecolor=face, markersize=6, elinewidth=0.8, capsize=2,
        )  # fmt: skip
    axes.margins(0.12, 0.1)
    axes.set_ylabel(metric_label(table))
    _name_points(axes, points, set(front))


def _name_points(axes: Axes, points: list[Point], front: set[Point]) -> None:
    """Write names beside their points, each where it covers least of what is there already; a thin line leads to a far one."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.draw_without_rendering()  # the layout decides where points are
    scale = figure.dpi / 72
    place = axes.transData.transform
    taken: list[Area] = []
    for p in points:
        x, y = place((p.x, p.y))
        half = place((p.x, p.y + p.sd))[1] - y
        taken += [
            (x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale),
            (x - scale, y - half, x + scale, y + half),
        ]
    for one, other in pairwise(sorted(front)):  # the step line
        (x, y), (right, top) = place((one.x, one.y)), place((other.x, other.y))
        taken += [(x, y - scale, right, y + scale), (right - scale, min(y, top), right + scale, max(y, top))]
    inside = axes.get_window_extent().extents
    for p in sorted(points, key=lambda p: (p not in front, p.x, p.y)):
        x, y = place((p.x, p.y))
        width, height = (4.1 if p in front else 3.7) * len(p.style.name) * scale, 8 * scale
        areas = [_beside(x, y, width, height, dx * scale, dy * scale) for dx, dy in OFFSETS]
        costs = [
            sum(_overlap(area, other) for other in taken)
            + 9 * _outside(area, inside)
            + 2 * scale**2 * (abs(dx) + abs(dy))
            for area, (dx, dy) in zip(areas, OFFSETS, strict=True)
        ]
        best = costs.index(min(costs))
        taken.append(areas[best])
        middle = (
            ((areas[best][0] + areas[best][2]) / 2 - x) / scale,
            ((areas[best][1] + areas[best][3]) / 2 - y) / scale,
        )
        far = max(map(abs, OFFSETS[best])) > 12
        axes.annotate(
            p.style.name, (p.x, p.y), xytext=middle, textcoords="offset points", fontsize=6.5, ha="center", va="center",
            fontweight="bold" if p in front else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": GREY, "shrinkB": 3} if far else None,
        )  # fmt: skip


def _thousands(x: float) -> str:
    """Return a round number of an axis: 5K, 10M."""
    number = text.count(round(x))
    return f"{float(number[:-1]):g}{number[-1]}"


Area = tuple[float, float, float, float]  # left, bottom, right, top in pixels
OFFSETS = [
    (dx, dy)
    for r in (7, 11, 18, 27, 38, 50)
    for dx, dy in ((r, 0), (-r, 0), (0, r), (0, -r), (r, r), (r, -r), (-r, r), (-r, -r))
]


def _beside(x: float, y: float, width: float, height: float, dx: float, dy: float) -> Area:
    """Return where a name lies whose nearest edge is dx, dy from its point."""
    left = x - width / 2 if dx == 0 else x + dx if dx > 0 else x + dx - width
    bottom = y + dy - height / 2
    return left, bottom, left + width, bottom + height


def _outside(area: Area, inside: Area) -> float:
    """Return how much of an area lies outside of another."""
    return (area[2] - area[0]) * (area[3] - area[1]) - _overlap(area, inside)


def _overlap(one: Area, other: Area) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


# ranks ------------------------------------------------------------------------------------------------------------


def critical_difference(methods: int, rows: int) -> float:
    """Return by how much two average ranks must differ to be different at α = 0.05 (Nemenyi; Demšar 2006, JMLR 7, eq. 6).

    Args:
        methods: k ≥ 2 that are ranked.
        rows: N ≥ 1 datasets that rank them.
    """
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(0.95, methods, math.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(methods * (methods + 1) / (6 * rows)))


def complete_rows(table: Table, block: Block) -> list[int]:
    """Return the rows of a block in which every ranked method has a value."""
    ranked = [j for j, rank in enumerate(block.ranks) if rank is not None]
    return [i for i in block.rows if ranked and all(table.cells[i][j].values for j in ranked)]


def ranks(table: Table) -> Figure:
    """Draw average ranks, best first, with the ranks on each dataset and the critical difference as a bar."""
    blocks = ranked_blocks(table)
    most = max(sum(rank is not None for rank in block.ranks) for block in blocks)
    figure = new_figure((0.19 * most + 1.0) * -(-len(blocks) // 2) + 0.2, demo=table.demo)
    looks = styles(table)
    for axes, block in zip(_panels(figure, len(blocks)), blocks, strict=False):
        rows = complete_rows(table, block)
        ordered = sorted((rank, j) for j, rank in enumerate(block.ranks) if rank is not None)
        for y, (rank, j) in enumerate(ordered):
            each = [r for i in rows if (r := table.cells[i][j].rank) is not None]
            axes.plot([1, rank], [y, y], color=PALE, linewidth=1, zorder=1)
            axes.plot(each, [y] * len(each), "|", color="#636b74", markersize=6, markeredgewidth=0.9)
            axes.plot(rank, y, color=looks[j].colour, marker=looks[j].marker, markersize=6)
        axes.set_yticks(range(len(ordered)), [f"{looks[j].name}  {rank:.{RANK_DIGITS}f}" for rank, j in ordered])
        difference, best = critical_difference(len(ordered), len(rows)), ordered[0][0]
        axes.plot([best, best + difference], [-1, -1], color=BLACK, linewidth=2.2, solid_capstyle="butt")
        axes.annotate(
            f"critical difference {difference:.2f}", (best, -1), xytext=(0, 3), textcoords="offset points", fontsize=6.5
        )
        axes.set_xlim(0.7, max(len(ordered), best + difference) + 0.3)
        axes.set_ylim(len(ordered) - 0.5, -1.9)
        axes.set_title(_place(table, block.rows[0], table.across))
        axes.set_xlabel(f"rank over {len(rows)} datasets, 1 = best")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


# shared -----------------------------------------------------------------------------------------------------------


def _panels(figure: Figure, number: int) -> Iterator[Axes]:
    """Yield axes, two side by side; one alone takes the left two thirds."""
    columns = min(number, 2)
    grid = figure.add_gridspec(-(-number // columns), columns)
    for k in range(number):
        yield figure.add_subplot(grid[k // columns, k % columns])


def _place(table: Table, row: int, *without: str) -> str:
    """Return what a row stands for, less some dimensions, and less the whole training split."""
    whole = any(share(run) == 100 for cell in table.cells[row] for run in (*cell.runs, *cell.others))
    names = [name for name in table.spec.rows if name not in (*without, "fraction" if whole else "")]
    return " · ".join(label(text.label(name, table.rows[row][name]), 40) for name in names)
