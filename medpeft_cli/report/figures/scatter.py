"""Score against trained parameters (the paper's Figure 3) and against cost, with the Pareto front."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from medpeft_cli.report import text
from medpeft_cli.report.figures.panels import PANEL, better, main_blocks, panels, place, readable
from medpeft_cli.report.figures.style import GREY, Style, metric_label, new_figure, styles
from medpeft_cli.report.records import Run
from medpeft_cli.report.table import Block, Table


class Point(NamedTuple):
    """A method in a figure of score against something."""

    x: float
    y: float
    sd: float
    style: Style


def pareto(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """Return the points that no other beats: none has at most their x and a better score, or less x and an equal one."""
    sign = 1 if higher_is_better else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -sign * each.y)):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def parameters(table: Table) -> Figure:
    """Draw score against trained parameters, head included, a panel for each block; its mean over datasets where it has several."""
    blocks = blocks_with_parameters(table)
    figure = new_figure(PANEL * 1.3 * -(-len(blocks) // 2) + 0.3, demo=table.demo)
    for axes, block in zip(panels(figure, len(blocks)), blocks, strict=False):
        _scatter(axes, table, parameter_points(table, block))
        axes.set_title(place(table, block.rows[0], table.across if len(block.rows) > 1 else ""))
        axes.set_xlabel("trained parameters, head included ↓")
    return figure


def blocks_with_parameters(table: Table) -> list[Block]:
    """Return the blocks in which at least two methods have a score and a count."""
    return [block for block in main_blocks(table) if len(parameter_points(table, block)) > 1]


def parameter_points(table: Table, block: Block) -> list[Point]:
    """Return trained parameters and score of each column of a block that has both on every row."""
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


def known_costs(table: Table, block: Block) -> dict[str, list[Point]]:
    """Return the points of each of COSTS that at least two methods have."""
    found = {name: cost_points(table, block, measure) for name, measure in COSTS.items()}
    return {name: points for name, points in found.items() if len(points) > 1}


def undrawn(table: Table, block: Block, points: Iterable[Point]) -> list[str]:
    """Return the names of the methods with a score in a block that have no point."""
    drawn = {point.style for point in points}
    scored = [any(table.cells[i][j].values for i in block.rows) for j in range(len(table.columns))]
    return [look.name for look, has in zip(styles(table), scored, strict=True) if has and look not in drawn]


def cost(table: Table, block: Block) -> Figure:
    """Draw score against each cost that is recorded; see `cost_points`."""
    known = known_costs(table, block)
    figure = new_figure(PANEL * 1.3 * -(-len(known) // 2) + 0.3, demo=table.demo)
    for axes, (name, points) in zip(panels(figure, len(known)), known.items(), strict=True):
        _scatter(axes, table, points)
        axes.set_xlabel(name)
    return figure


def _scatter(axes: Axes, table: Table, points: list[Point]) -> None:
    """Draw points with their names, those on the Pareto front filled and joined by a step line; the front's before the others."""
    front = pareto(points, table.info.higher_is_better)
    shown = set(readable(sorted(points, key=lambda p: (p not in front, better(table, p.y)))))
    points, front = ([p for p in each if p in shown] for each in (points, front))
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
