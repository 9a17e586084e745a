"""A report as text for files and pipes. The same report gives the same bytes."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from medpeft_cli.registry import lookup
from medpeft_cli.report import text
from medpeft_cli.report.build import Report
from medpeft_cli.report.commands import to_run
from medpeft_cli.report.latex import latex
from medpeft_cli.report.macros import macros
from medpeft_cli.report.paper import Number, Printed, misprints
from medpeft_cli.report.records import Run
from medpeft_cli.report.sheet import Shown
from medpeft_cli.report.table import Block, Cell, Table


def render(report: Report, form: str) -> str:
    """Return the report as latex, csv, json or markdown; `terminal.terminal` is the fifth form.

    Raises:
        RecipeError: if the form is unknown.
    """
    return next(iter(lookup("report form", FORMS, form).values()))(report)


def files(report: Report, forms: Iterable[str]) -> dict[str, str]:
    """Return the files of some forms: name → text; none that would be empty."""
    written = {name: write(report) for form in forms for name, write in lookup("report form", FORMS, form).items()}
    return {name: content for name, content in written.items() if content}


def as_data(report: Report) -> dict[str, Any]:
    """Return every number of the report, with the ids of the runs behind it, JSON-ready."""
    tests = []
    if report.tests:
        from medpeft_cli.report.comparison_sheets import comparison_data

        tests = [comparison_data(each) for each in report.tests]
    return {
        "schema_version": 1,
        "where": {name: sorted(wanted) for name, wanted in (report.question.where or {}).items()},
        "tables": [_table_data(table, name, report) for table, name in zip(report.tables, report.names, strict=True)],
        **({"tests": tests} if tests else {}),
        "unplaced": [_run_data(run) for run in report.unplaced],
        "problems": [problem._asdict() for problem in report.problems],
    }


def _table_data(table: Table, name: str, report: Report) -> dict[str, Any]:
    printed = report.printed(table)
    return {
        "name": name,
        "layout": table.spec.name,
        "title": text.title(table),
        "caption": text.protocol(table),
        "notes": text.notes(table, report.revisions, report.filtered),
        "metric": table.spec.metric,
        "judged": table.judged,
        "higher_is_better": table.info.higher_is_better,
        "family": table.family,
        "demo": table.demo,
        "results_revision": table.results_revision,
        "columns": [dict(column) for column in table.columns],
        "rows": [
            {
                **row,
                "cells": [
                    _cell_data(cell)
                    | {"to_run": " && ".join(to_run(table, i, j))}
                    | (_printed_data(printed.cells[i][j], cell.mean) if printed else {})
                    for j, cell in enumerate(cells)
                ],
            }
            for i, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True))
        ],
        "blocks": [_block_data(table, block) for block in table.blocks],
        "all_rows": _block_data(table, table.combined) if table.combined else None,
        "misprints": misprints([*printed.cells, *printed.means, *printed.ranks, printed.combined]) if printed else [],
    }


def _block_data(table: Table, block: Block) -> dict[str, Any]:
    return {
        "rows": block.rows,
        "parameters": [None if seen is None else {"method": seen[0], "head": seen[1]} for seen in block.parameters],
        "means": block.means,
        "average_ranks": block.ranks,
        "ranked_rows": block.ranked_rows,
        "rank_ties": table.spec.ties,
    }


def _printed_data(number: Number | None, mean: float | None) -> dict[str, float | None]:
    """Return what the paper prints and our mean − that."""
    paper = number.value if number else None
    return {"paper": paper, "difference": None if paper is None or mean is None else mean - paper}


def _cell_data(cell: Cell) -> dict[str, Any]:
    return {
        "state": cell.state or "value",
        "mean": cell.mean,
        "sd": cell.sd,
        "seeds": len(cell.values),
        "interval": cell.interval,
        "mark": cell.mark,
        "rank": cell.rank,
        "runs": [{"id": run.id, "seed": run.seed, "value": v} for run, v in zip(cell.runs, cell.values, strict=True)],
        "others": [_run_data(run) for run in cell.others],
    }


def _run_data(run: Run) -> dict[str, Any]:
    return {"id": run.id, "seed": run.seed, "status": run.status, "reason": run.reason}


def _json(report: Report) -> str:
    return json.dumps(as_data(report), indent=1, allow_nan=False) + "\n"


def _csv(report: Report) -> str:
    """Return one line a cell, mean and average rank, numbers in full, so that any program pivots it as it likes."""
    names = list(
        dict.fromkeys(
            name for table in report.tables for labels in (table.rows[0], table.columns[0]) for name in labels
        )
    )
    header = [
        "table", "layout", "demo", "results_revision", "family", *names, "metric", "judged", "state", "mean", "sd", "seeds", "low", "high", "mark", "rank",
        "parameters_method", "parameters_head", "runs", "to_run", *(["paper", "difference"] if report.question.against_paper else []),
    ]  # fmt: skip
    file = io.StringIO()
    writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
    writer.writeheader()
    for table, table_name in zip(report.tables, report.names, strict=True):
        printed = report.printed(table)
        whole = {
            "table": table_name,
            "layout": table.spec.name,
            "demo": str(table.demo).lower(),
            "results_revision": table.results_revision,
            "family": table.family,
            "metric": table.spec.metric,
            "judged": table.judged,
        }
        for i, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
            for j, (column, cell) in enumerate(zip(table.columns, cells, strict=True)):
                low, high = cell.interval or ("", "")
                counts = next((run.parameters for run in cell.runs if run.parameters), None)
                values = (
                    whole
                    | row
                    | column
                    | {
                        "state": cell.state or "value",
                        "mean": cell.mean,
                        "sd": cell.sd,
                        "seeds": len(cell.values),
                        "low": low,
                        "high": high,
                        "mark": cell.mark,
                        "rank": cell.rank,
                        "parameters_method": counts.method if counts else "",
                        "parameters_head": counts.head if counts else "",
                        "runs": " ".join(run.id for run in (*cell.runs, *cell.others)),
                        "to_run": " && ".join(to_run(table, i, j)),
                    }
                    | (_printed_data(printed.cells[i][j], cell.mean) if printed else {})
                )
                writer.writerow(_inert_line(values))
        for line in _summary_lines(table, printed):
            writer.writerow(_inert_line(whole | line))
    return file.getvalue()


def _summary_lines(table: Table, printed: Printed | None) -> Iterator[dict[str, Any]]:
    """Yield a line for each mean and average rank; the label that it is over is empty."""
    for b, block in enumerate(table.blocks):
        labels = {name: label for name, label in table.rows[block.rows[0]].items() if name != table.across}
        yield from _summary(table, labels, "mean", block.means, block.mean_marks, printed and printed.means[b])
        if not table.combined:
            yield from _summary(table, labels, "rank", block.ranks, block.rank_marks, printed and printed.ranks[b])
    if table.combined:
        ranks, marks = table.combined.ranks, table.combined.rank_marks
        yield from _summary(table, {}, "rank", ranks, marks, printed and printed.combined)


def _summary(
    table: Table,
    labels: Mapping[str, str],
    kind: str,
    values: Sequence[float | None],
    marks: Sequence[str],
    printed: Sequence[Number | None] | None,
) -> Iterator[dict[str, Any]]:
    for j, (column, value, mark) in enumerate(zip(table.columns, values, marks, strict=True)):
        if value is not None:
            beside = _printed_data(printed[j], value) if printed else {}
            yield {**labels, **column, "state": kind, kind: value, "mark": mark, **beside}


def _left_out_csv(report: Report) -> str:
    """Return one line for each record that is in no table; nothing where there is none."""
    lines = [(run.id, run.reason) for run in report.unplaced] + list(report.problems)
    if not lines:
        return ""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("record", "reason"))
    writer.writerows(map(_inert, line) for line in lines)
    return file.getvalue()


def _tests_csv(report: Report) -> str:
    """Return one line a comparison on a test split; nothing where none was asked for."""
    if not report.tests:
        return ""
    from medpeft_cli.report.comparison_sheets import comparison_data

    found = [comparison_data(each) for each in report.tests]
    splits = [(each["baseline"], split) for each in found for split in each["test_splits"]]
    lines = [
        {"baseline": baseline} | {key: value for key, value in split.items() if key != "methods"} | method
        for baseline, split in splits
        for method in split["methods"]
    ]
    if not lines:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(_inert_line(line))
    return file.getvalue()


def _inert_line(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _inert(value) if isinstance(value, str) else value for name, value in values.items()}


def _inert(value: str) -> str:
    """Return text that no spreadsheet takes for a formula: on one line, with an apostrophe before what would start one."""
    shown = text.clean(value, 10_000)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _markdown(report: Report) -> str:
    parts = []
    for sheet in report.sheets:
        parts += [f"### {text.markdown(sheet.title)}", text.markdown(sheet.subtitle)]
        for section in sheet.sections:
            lines = [[text.markdown(head) for head in (sheet.corner, *sheet.heads)], ["---"] * (len(sheet.heads) + 1)]
            lines += [[text.markdown(line.label), *map(_markdown_cell, line.cells)] for line in section.lines]
            parts.append(f"**{text.markdown(section.heading)}**" if section.heading else "")
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts.append(text.markdown(" ".join(sheet.caption)))
        parts.append("\n".join(f"- {text.markdown(note)}" for note in sheet.notes))
        if sheet.commands:
            parts.append("\n".join([f"{text.TO_RUN}:\n", "```", *sheet.commands, "```"]))
    parts.append("\n".join(f"- {text.markdown(line)}" for line in text.leftovers(report.unplaced, report.problems)))
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_cell(shown: Shown) -> str:
    value = _emphasis(text.markdown(shown.value), shown.mark)
    return " ".join(filter(None, (value, shown.small, shown.seeds)))


def _emphasis(value: str, mark: str) -> str:
    return {"best": f"**{value}**", "second": f"<u>{value}</u>"}.get(mark, value)


FORMS: dict[str, dict[str, Callable[[Report], str]]] = {  # the first file of a form is what is printed
    "latex": {"tables.tex": latex, "numbers.tex": macros},
    "csv": {"tables.csv": _csv, "tests.csv": _tests_csv, "left_out.csv": _left_out_csv},
    "json": {"tables.json": _json},
    "markdown": {"tables.md": _markdown},
}
