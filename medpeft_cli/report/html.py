"""One page for a browser that opens from disk: tables, figures and a view of each run. What comes from data is escaped, twice over:
the page may run one script only, its own, by its hash.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from medpeft_cli.metrics.names import METRIC_INFO
from medpeft_cli.page import render_page
from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.dimensions import DIMENSIONS, placeable
from medpeft_cli.report.page_data import Views
from medpeft_cli.report.records import Run
from medpeft_cli.report.sheet import Sheet
from medpeft_cli.report.table import other_state

if TYPE_CHECKING:
    from medpeft_cli.report.figures import Drawing

SCRIPT = Path(__file__).with_name("page.js")
LISTED = {  # metrics of a list of runs, beside what the tables show
    "classification": ("f1_macro", "balanced_accuracy", "auroc_ovr", "ece"),
    "text to image": ("fid", "kid", "clip_score", "improved_precision", "improved_recall"),
}


def html(report: Report) -> str:
    """Return the page, its figures drawn. The same report gives the same text."""
    from medpeft_cli.report.figures import drawings, not_drawn

    runs = [*report.runs, *report.unplaced]
    views = Views(runs, report.results)
    figures = drawings(report)
    parts = []
    for demo in sorted({run.demo for run in runs}):
        mine = [run for run in runs if run.demo == demo]
        parts.append(
            {
                "demo": demo,
                "anchor": "demo" if demo else "results",
                "tiles": _tiles(mine),
                "sheets": [_sheet(sheet, views) for sheet in report.sheets if sheet.demo == demo],
                "figures": [_figure(drawing) for drawing in figures if drawing.demo == demo],
                "lists": _lists(mine, views),
                "not_drawn": not_drawn(report, demo=demo),
                "without": [_without(run, views) for run in mine if not run.test],
            }
        )
    script = SCRIPT.read_text(encoding="utf-8")
    return render_page(
        "report/page.html",
        parts=parts,
        problems=[(text.clean(path, 120), text.clean(reason, 300)) for path, reason in report.problems],
        revisions=sorted(report.revisions),
        data=Markup(embedded(views.data())),  # noqa: S704  no "<" is left in it
        script=Markup(script),  # noqa: S704  our own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def embedded(data: Any) -> str:
    """Return JSON that can stand in a script element: in ASCII, and without a sign that HTML or JavaScript could take for its own."""
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _tiles(runs: Sequence[Run]) -> list[tuple[str, str]]:
    states = Counter("finished" if run.test else other_state(run) for run in runs)
    placed = [run for run in runs if placeable(run)]
    kinds = {"datasets": "dataset", "backbones": "backbone", "methods": "method"}
    counted = [(name, len({DIMENSIONS[dimension](run)[0] for run in placed})) for name, dimension in kinds.items()]
    return [(f"{number:,}", what) for what, number in [*states.most_common(), *counted]]


def _sheet(sheet: Sheet, views: Views) -> dict[str, Any]:
    panels = []
    for panel in sheet.turned() if sheet.methods == "columns" else [sheet]:
        for section in panel.sections:
            lines = [
                {"label": line.label, "cells": [{"shown": cell, "link": views.link(cell.runs)} for cell in line.cells]}
                for line in section.lines
            ]
            panels.append({"heading": section.heading, "corner": panel.corner, "heads": panel.heads, "lines": lines})
    return {
        "name": sheet.name,
        "title": sheet.title,
        "subtitle": sheet.subtitle,
        "panels": panels,
        "caption": " ".join(sheet.caption),
        "notes": sheet.notes,
        "commands": sheet.commands,
    }


def _figure(drawing: "Drawing") -> dict[str, Any]:
    (svg,) = drawing.encoded("svg")
    return {
        "title": drawing.title,
        "caption": drawing.caption,
        "photographs": drawing.photographs,
        "address": f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}",
    }


def _lists(runs: Iterable[Run], views: Views) -> list[dict[str, Any]]:
    """Return a list of runs for each task."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault("text to image" if run.family == "unet" else "classification", []).append(run)
    lists = []
    for task, mine in tasks.items():
        metrics = [name for name in LISTED[task] if any(run.test and name in run.test.overall for run in mine)]
        heads = ["Method", "Dataset", "Backbone", "Data", "Seed", "State", *(_metric(name) for name in metrics)]
        lists.append(
            {
                "task": task,
                "heads": [*heads, "Parameters", "Minutes", "GB"],
                "choices": (0, 1, 2, 3, 5),
                "rows": [_row(run, metrics, views) for run in mine],
            }
        )
    return lists


def _metric(name: str) -> str:
    info = METRIC_INFO[name]
    return f"{text.capitalised(info.title)} {'↑' if info.higher_is_better else '↓'}"


def _row(run: Run, metrics: Sequence[str], views: Views) -> dict[str, Any]:
    """Return (text, sort value) of each cell of a run's line; None sorts last."""
    labels = [
        text.clean(DIMENSIONS[name](run)[0]) if placeable(run) else "–" for name in ("dataset", "backbone", "fraction")
    ]
    method = text.clean(run.method_title or run.method)
    cells: list[tuple[str, float | str | None]] = [(label, None) for label in (method, *labels)]
    order = DIMENSIONS["fraction"](run)[1]
    cells[3] = labels[2], order[0] * -1e6 + order[1]
    cells += [(str(run.seed), run.seed), ("finished" if run.test else other_state(run), None)]
    for name in metrics:
        value = run.test.overall[name].value if run.test and name in run.test.overall else None
        cells.append((text.fixed(value, METRIC_INFO[name].digits), "" if value is None else value))
    counts = run.parameters.method + run.parameters.head if run.parameters else None
    cells.append((text.count(counts) if counts is not None else "–", "" if counts is None else counts))
    for cost, unit, digits in ((run.timing.get("train_seconds"), 60, 1), (run.memory.get("peak_bytes"), 1e9, 2)):
        cells.append((f"{cost / unit:,.{digits}f}", cost) if isinstance(cost, int | float) else ("–", ""))
    return {"link": views.link([run]), "cells": cells}


def _without(run: Run, views: Views) -> dict[str, Any]:
    return {
        "id": text.clean(run.id, 120),
        "link": views.link([run]),
        "state": other_state(run),
        "reason": text.clean(run.reason, 300),
        "command": text.uncut(run.command or "", text.COMMAND),
    }
