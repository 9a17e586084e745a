"""The scores of one run, as `medpeft evaluate` prints them: overall, per class, confusion."""

import sys
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from medpeft_cli.metrics.names import METRIC_INFO
from medpeft_cli.report import text
from medpeft_cli.report.records import Estimate, Run, Scores

MATRIX_CLASSES = 12  # more do not fit a terminal: the most frequent confusions are listed instead
CLASS_METRICS = ("precision", "recall", "f1", "auroc", "average_precision")


def run_tables(run: Run) -> list[RenderableType]:
    """Return the test scores of a run as rich renderables; one line that says why if it has none."""
    scores = run.test
    if scores is None:
        return [Text(f"{text.clean(run.id, 120)}: {text.clean(run.reason, 200)}", style="yellow")]
    level = scores.protocol.get("confidence")
    interval = f"{100 * level:.4g} % interval" if isinstance(level, int | float) else "interval"
    unit = text.clean(scores.protocol.get("unit", "image"))
    resamples = scores.protocol.get("bootstrap", 0)
    described = f"{scores.n:,} test images · {interval}: bootstrap over {unit}s, {resamples:,} resamples"
    lines: list[RenderableType] = [
        Text(f"{'DEMO: ' if run.demo else ''}{text.clean(run.id, 120)}", style="bold"),
        Text(described if resamples else f"{scores.n:,} test images · no intervals", style="dim"),
        "",
        _overall(scores, interval),
        "",
        _per_class(scores),
        "",
        _confusion(scores),
    ]
    undefined = scores.protocol.get("undefined") or {}
    lines += [
        Text(f"· {text.clean(name)}: {text.clean(reason)}", style="yellow")
        for name, reason in sorted(undefined.items())
    ]
    return lines


def print_run(record: dict[str, Any]) -> None:
    """Print the test scores in a record's dictionary to stdout."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for part in run_tables(Run.model_validate(record)):
        console.print(part)


def _grid(*heads: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for i, head in enumerate(heads):
        grid.add_column(Text(head), justify="right" if i else "left", overflow="fold")
    return grid


def _number(value: float | None) -> Text:
    return Text("–", style="dim") if value is None else Text(f"{value:.3f}")


def _overall(scores: Scores, interval: str) -> Grid:
    grid = _grid("Metric", "Value", interval)
    for name, info in METRIC_INFO.items():
        if estimate := scores.overall.get(name):
            better = "" if info.higher_is_better else " (lower is better)"
            bounds = f"{estimate.low:.3f} – {estimate.high:.3f}" if None not in (estimate.low, estimate.high) else "–"
            grid.add_row(
                Text(f"{info.title[0].upper()}{info.title[1:]}{better}"),
                _number(estimate.value),
                Text(bounds, style="dim"),
            )
    return grid


def _per_class(scores: Scores) -> Grid:
    grid = _grid("Class", "Images", "Precision", "Recall", "F1", "AUROC", "Av. precision")
    for name, values in scores.per_class.items():
        support = values.get("support")
        estimates = (values.get(metric) for metric in CLASS_METRICS)
        numbers = (_number(each.value if isinstance(each, Estimate) else None) for each in estimates)
        grid.add_row(Text(text.clean(name, 30)), Text(f"{support:,}" if isinstance(support, int) else "–"), *numbers)
    return grid


def _confusion(scores: Scores) -> RenderableType:
    names = [text.clean(name, 20) for name in scores.per_class]
    matrix = scores.confusion
    if len(matrix) != len(names) or any(len(row) != len(names) for row in matrix):
        return Text("")
    if len(names) > MATRIX_CLASSES:
        pairs = [(count, i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count]
        grid = _grid("Most frequent confusions", "Taken for", "Images")
        for count, i, j in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:10]:
            grid.add_row(Text(names[i]), Text(names[j]), Text(f"{count:,}"))
        return grid
    grid = _grid("True class ↓ predicted →", *(str(i) for i in range(1, len(names) + 1)))
    for i, (name, row) in enumerate(zip(names, matrix, strict=True)):
        shown = (Text(f"{count:,}", style="bold" if i == j else "" if count else "dim") for j, count in enumerate(row))
        grid.add_row(Text(f"{i + 1} {name}"), *shown)
    return grid
