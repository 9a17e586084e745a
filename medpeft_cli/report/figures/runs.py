"""Figures of the runs in a row of a table: learning curves, confusion matrices, reliability diagrams."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from matplotlib.figure import Figure

from medpeft_cli.metrics.names import METRIC_INFO
from medpeft_cli.report.figures.style import BLACK, GREY, Tiles, label, legend, new_figure, styles
from medpeft_cli.report.records import Run
from medpeft_cli.report.run_files import Epoch, history, reliability
from medpeft_cli.report.table import Cell, Table

NUMBERED = 8  # classes up to which a confusion matrix has numbers and names
ACROSS = 5  # small panels side by side

Curve = list[tuple[float, float, float, float]]  # x, mean over seeds, least, greatest


def curves(table: Table, row: int) -> Figure:
    """Draw training loss and what validation watched against epochs (text-to-image: steps), mean and range over seeds."""
    looks, cells = styles(table), table.cells[row]
    watched = watched_metric([run for cell in cells for run in cell.runs])
    figure = new_figure(2.9, demo=table.demo)
    left, right = figure.subplots(1, 2)
    shown = []
    for look, cell in zip(looks, cells, strict=True):
        lines = [history(run) for run in cell.runs]
        training = _over_seeds(lines, lambda line: line.train_loss, table.family)
        validation = _over_seeds(lines, lambda line: line.val.get(watched), table.family)
        for axes, curve in ((left, training), (right, validation)):
            if curve:
                x, mean, low, high = zip(*curve, strict=True)
                every = max(len(x) // 6, 1)
                axes.plot(x, mean, **look.line, markevery=every)
                axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
        if training or validation:
            shown.append(look)
    unit = "step" if table.family == "unet" else "epoch"
    title = METRIC_INFO[watched].title if watched in METRIC_INFO else watched
    left.set(xlabel=unit, ylabel="training loss ↓")
    right.set(xlabel=unit, ylabel=f"validation {title}")
    legend(figure, shown)
    return figure


def watched_metric(runs: Sequence[Run]) -> str:
    """Return the validation metric that picked the epoch of most runs; the loss where nothing picked."""
    names = [str(run.selection.get("metric")) for run in runs]
    best = max(sorted(set(names)), key=names.count, default="last")
    return "loss" if best in ("last", "None") else best


def _over_seeds(runs: list[list[Epoch]], value: Callable[[Epoch], float | None], family: str) -> Curve:
    points = defaultdict(list)
    for lines in runs:
        for line in lines:
            if (y := value(line)) is not None:
                points[line.step if family == "unet" else line.epoch + 1].append(y)
    return [(x, fmean(each), min(each), max(each)) for x, each in sorted(points.items())]


def scored(cells: Sequence[Cell]) -> list[int]:
    """Return the columns whose runs have a confusion matrix of the same classes as the first that has one."""
    classes = next((_classes(cell) for cell in cells if _classes(cell)), None)
    return [j for j, cell in enumerate(cells) if classes and _classes(cell) == classes]


def _classes(cell: Cell) -> tuple[str, ...]:
    """Return the classes that the matrices of all runs of a cell have; none if they are not of one shape."""
    found = {tuple(run.test.per_class) for run in cell.runs if run.test}
    names = found.pop() if len(found) == 1 else ()
    square = all(
        len(run.test.confusion) == len(names) == len(line)
        for run in cell.runs
        if run.test
        for line in run.test.confusion
    )
    return names if square and all(run.test and run.test.confusion for run in cell.runs) else ()


def confusion(table: Table, row: int) -> Figure:
    """Draw a confusion matrix for each method, summed over seeds: rows are true classes, in percent of their images."""
    import numpy as np

    looks, cells = styles(table), table.cells[row]
    columns = scored(cells)
    names = [label(name, 14) for name in _classes(cells[columns[0]])]
    numbered = len(names) <= NUMBERED
    room = 0.055 * max(map(len, names)) if numbered else 0.0
    tiles = Tiles(len(columns), left=0.3 + room, bottom=0.3 + room, demo=table.demo)
    step = tiles.side / len(names)
    for j, (left, top) in zip(columns, tiles.places, strict=True):
        counts = np.sum([run.test.confusion for run in cells[j].runs if run.test], axis=0)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        edges = np.arange(len(names) + 1) * step
        tiles.axes.pcolormesh(
            left + edges, top + edges, shares, cmap="Blues", vmin=0, vmax=115, edgecolor="white", linewidth=0.2
        )
        for (a, b), value in np.ndenumerate(shares) if numbered else ():
            colour = "white" if value > 65 else "black"
            place = left + (b + 0.5) * step, top + (a + 0.5) * step
            tiles.text(*place, f"{value:.0f}", color=colour, fontsize=7.5 - len(names) / 3)
    for k, (left, top) in enumerate(tiles.places):
        for c, name in enumerate(names if numbered else ()):
            if k % ACROSS == 0:
                tiles.text(left - 0.04, top + (c + 0.5) * step, name, ha="right", fontsize=6)
            if k in tiles.lowest:
                tiles.text(left + (c + 0.5) * step, top + tiles.side + 0.04, name, va="top", rotation=90, fontsize=6)
    tiles.titled([looks[j].name for j in columns])
    tiles.labelled("predicted class", "true class, % of its images")
    return tiles.figure


def calibrated(cells: Sequence[Cell]) -> list[int]:
    """Return the columns whose runs have predictions."""
    return [j for j, cell in enumerate(cells) if reliability(cell.runs)]


def reliabilities(table: Table, row: int) -> Figure:
    """Draw a reliability diagram for each method, all seeds' test images together: below the diagonal is overconfident."""
    looks, cells = styles(table), table.cells[row]
    columns = calibrated(cells)
    tiles = Tiles(len(columns), left=0.5, bottom=0.42, demo=table.demo)
    side = tiles.side
    for k, (j, (left, top)) in enumerate(zip(columns, tiles.places, strict=True)):
        bins = reliability(cells[j].runs)
        total = sum(each.images for each in bins)
        error = sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / total
        x = [left + side * each.confidence for each in bins]
        y, ideal = (
            [top + side * (1 - share) for share in shares]
            for shares in zip(*((b.accuracy, b.confidence) for b in bins), strict=True)
        )
        axes = tiles.axes
        axes.plot([left, left, left + side], [top, top + side, top + side], color=BLACK, linewidth=0.8)
        axes.plot([left, left + side], [top + side, top], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.vlines(x, ideal, y, color=looks[j].colour, linewidth=1, alpha=0.6)
        axes.scatter(x, y, [4 + 60 * each.images / total for each in bins], color=looks[j].colour, zorder=3)
        tiles.text(
            left + side - 0.04, top + side - 0.05, f"ECE {error:.3f}", ha="right", va="bottom", fontsize=6.5, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
        for share in (0, 0.5, 1):
            if k % ACROSS == 0:
                tiles.text(left - 0.05, top + side * (1 - share), f"{share:g}", ha="right", fontsize=6)
            if k in tiles.lowest:
                tiles.text(left + side * share, top + side + 0.05, f"{share:g}", va="top", fontsize=6)
    tiles.titled([looks[j].name for j in columns])
    tiles.labelled("confidence of the predicted class", "share that is right")
    return tiles.figure
