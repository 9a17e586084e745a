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
    title = f"{'DEMO: ' if run.demo else ''}{text.clean(run.id, 120)}"
    return [Text(title, style="bold"), *score_tables(scores)]


def score_tables(scores: Scores) -> list[RenderableType]:
    """Return scores as rich renderables: how they were measured, overall, and what classification has beside it."""
    level = scores.protocol.get("confidence")
    interval = f"{100 * level:.4g} % interval" if isinstance(level, int | float) else "interval"
    unit = text.clean(scores.protocol.get("unit", "image"))
    resamples = scores.protocol.get("bootstrap", 0)
    sets = scores.protocol.get("images")
    images = (
        f"{scores.n:,} test images" if sets is None else f"{scores.n:,} generated images, {sets['real']:,} real ones"
    )
    described = f"{interval}: bootstrap over {unit}s, {resamples:,} resamples" if resamples else "no intervals"
    lines: list[RenderableType] = [
        Text(f"{images} · {described}", style="dim"),
        *(Text(line, style="dim") for line in _generation_protocol(scores.protocol)),
        "",
        _overall(scores, interval),
    ]
    if scores.per_class:
        lines += ["", _per_class(scores), "", _confusion(scores)]
    undefined = scores.protocol.get("undefined") or {}
    notes = [f"{text.clean(name)}: {text.clean(reason, 200)}" for name, reason in sorted(undefined.items())]
    return lines + [Text(f"· {note}", style="yellow") for note in notes + _generation_notes(scores.protocol)]


def print_run(record: dict[str, Any]) -> None:
    """Print the test scores in a record's dictionary to stdout."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for part in run_tables(Run.model_validate(record)):
        console.print(part)


def print_scores(scores: dict[str, Any]) -> None:
    """Print scores that belong to no run to stdout, as `engine.compare` returns them."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for part in score_tables(Scores.model_validate(scores)):
        console.print(part)


def _generation_protocol(protocol: dict[str, Any]) -> list[str]:
    """What FID and CLIP score depend on; nothing for a classification."""
    lines = []
    for title, network in (("encoder", protocol.get("encoder")), ("CLIP", protocol.get("clip"))):
        if network:
            antialias = "antialiased" if network["antialias"] else "not antialiased"
            lines.append(
                f"{title} {text.clean(network['name'])} ({network['sha256'][:8]}), {network['size_pixels']} px, "
                f"{text.clean(network['filter'])}, {antialias}"
            )
    if hashes := protocol.get("sha256"):
        lines.append(f"reference set {hashes['real'][:8]}")
    return lines


def _generation_notes(protocol: dict[str, Any]) -> list[str]:
    notes = []
    if encoder := protocol.get("encoder"):
        fewest, width = min(protocol["images"][side] for side in ("real", "generated")), encoder["features"]
        if fewest <= width:
            notes.append(
                f"{fewest:,} images for {width:,} features: FID is biased upwards; compare only at equal numbers"
            )
    if (clip := protocol.get("clip")) and clip["prompts_truncated"]:
        cut = clip["prompts_truncated"]
        notes.append(
            f"{cut:,} prompts are longer than the {clip['context_tokens']} tokens that {clip['name']} reads: cut"
        )
    if pairs := protocol.get("ms_ssim"):
        notes.append(f"MS-SSIM of pairs of real images: {pairs['real']:.3f}")
    return notes


def _grid(*heads: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for i, head in enumerate(heads):
        grid.add_column(Text(head), justify="right" if i else "left", overflow="fold")
    return grid


def _number(value: float | None, digits: int = 3) -> Text:
    return Text("–", style="dim") if value is None else Text(f"{value:,.{digits}f}")


def _overall(scores: Scores, interval: str) -> Grid:
    grid = _grid("Metric", "Value", interval)
    for name, info in METRIC_INFO.items():
        if estimate := scores.overall.get(name):
            better = "" if info.higher_is_better else " (lower is better)"
            low, high = (_number(bound, info.digits).plain for bound in (estimate.low, estimate.high))
            bounds = "–" if low == high == "–" else f"{low} – {high}"
            grid.add_row(
                Text(f"{info.title[0].upper()}{info.title[1:]}{better}"),
                _number(estimate.value, info.digits),
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
