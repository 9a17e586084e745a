"""The tests of a report as printed tables: every p stands under the name of its test, and no star stands for one."""

import math
from collections.abc import Sequence
from typing import Any

from medpeft_cli.report import text
from medpeft_cli.report.comparisons import (
    CONFIDENCE,
    RESAMPLES,
    WILCOXON,
    Comparison,
    OverDatasets,
    TableTests,
    smallest_wilcoxon_p,
)
from medpeft_cli.report.sheet import Line, Section, Sheet, Shown
from medpeft_cli.report.table import Block, Table

LEVEL = f"{100 * CONFIDENCE:g} %"
SPLIT_HEADS = ("Difference", "p, bootstrap", "p, McNemar", "AUROC difference", "p, DeLong")
SPLIT_CAPTION = (
    f"Difference of the metric's mean over the seeds that both have, with its {LEVEL} interval: paired bootstrap of the test "
    f"split's images, or of their groups (patients, lesions) where they are known, {RESAMPLES:,} resamples.",
    "McNemar: are both right equally often? DeLong: are the AUROCs equal? Of several seeds the largest p is shown, so that a "
    "small one holds in each.",
    "All p are two-sided and adjusted by Holm for the methods of a section, each test by itself; they say nothing of other datasets.",
    "Images are resampled, training is not: the tests are of these trained models, and say nothing of other seeds.",
)
OVER_HEADS = ("Mean difference", "Better on", "p, Nemenyi")
WILCOXON_HEAD = "p, Wilcoxon"
WILCOXON_CAPTION = "Wilcoxon: signed-rank test of the differences, datasets as the sample, two-sided, adjusted by Holm for the methods."
OVER_CAPTION = (
    f"Mean over the datasets of the difference, with the {LEVEL} interval of Student's t for the datasets as the sample.",
    "Nemenyi: post-hoc of Friedman's test (scikit-posthocs), adjusted for all pairs of methods.",
)


def comparison_sheets(tests: TableTests, name: str) -> list[Sheet]:
    """Return the printed tables of a table's tests: on each test split, and over datasets.

    Args:
        tests: of the table.
        name: of the table's own sheet.
    """
    table = tests.table
    sheets = []
    if tests.rows or tests.left_out:
        sections = tuple(
            Section(
                _place(table, each.row, each.images, each.units), tuple(_split_line(table, c) for c in each.comparisons)
            )
            for each in tests.rows
        )
        title = text.titled(table, f"{text.capitalised(table.info.title)} against {tests.baseline}, on each test split")
        sheets.append(_sheet(f"{name}-tests", title, SPLIT_HEADS, sections, SPLIT_CAPTION, tests.left_out))
    if tests.blocks:
        blocks: list[Section] = []
        notes: list[str] = []
        enough = any(not math.isnan(effect.p_wilcoxon) for over in tests.blocks for effect in over.effects)
        for over in tests.blocks:
            block = table.blocks[over.block]
            lines = []
            for effect in over.effects:
                wins = sum((d > 0) == table.info.higher_is_better for d in effect.differences if d)
                lines.append(Line(_method(table, effect.column), (
                    _difference(effect.mean, effect.low, effect.high, table.info.digits),
                    Shown(f"{wins} of {len(effect.differences)}"),
                    Shown(probability(over.nemenyi.get(effect.column, math.nan))),
                    *([Shown(probability(effect.p_wilcoxon))] if enough else []),
                )))  # fmt: skip
            blocks.append(Section(text.heading(table, block), tuple(lines)))
            notes += _power(table, block, over)
        title = text.titled(table, f"{text.capitalised(table.info.title)} against {tests.baseline}, over datasets")
        heads = (*OVER_HEADS, *([WILCOXON_HEAD] if enough else []))
        caption = (*OVER_CAPTION, *([WILCOXON_CAPTION] if enough else []))
        sheets.append(_sheet(f"{name}-datasets", title, heads, blocks, caption, notes))
    return sheets


def comparison_data(tests: TableTests) -> dict[str, Any]:
    """Return every number of the tests, JSON-ready."""
    table = tests.table
    return {
        "baseline": tests.baseline,
        "left_out": list(tests.left_out),
        "test_splits": [
            {
                **table.rows[each.row],
                "images": each.images,
                "units": each.units,
                "methods": [_comparison_data(table, c) for c in each.comparisons],
            }
            for each in tests.rows
        ],
        "over_datasets": [
            {
                "heading": text.heading(table, table.blocks[over.block]),
                "complete_datasets": over.datasets,
                "methods_ranked": over.methods,
                "friedman": over.friedman and {"statistic": over.friedman[0], "p": _or_none(over.friedman[1])},
                "critical_difference": _or_none(over.critical_difference),
                "smallest_wilcoxon_p": smallest_wilcoxon_p(max(len(effect.differences) for effect in over.effects)),
                "methods": [
                    {
                        **table.columns[effect.column],
                        "mean_difference": effect.mean,
                        "low": _or_none(effect.low),
                        "high": _or_none(effect.high),
                        "differences": effect.differences,
                        "p_nemenyi": _or_none(over.nemenyi.get(effect.column, math.nan)),
                        "p_wilcoxon_holm": _or_none(effect.p_wilcoxon),
                    }
                    for effect in over.effects
                ],
            }
            for over in tests.blocks
        ],
    }


def probability(p: float) -> str:
    """Return a p as it is printed: three digits, `< 0.001` below them, a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def _sheet(
    name: str,
    title: str,
    heads: tuple[str, ...],
    sections: Sequence[Section],
    caption: tuple[str, ...],
    notes: Sequence[str],
) -> Sheet:
    return Sheet(name, title, "", "Method", heads, tuple(sections), caption, tuple(notes), methods="lines")


def _split_line(table: Table, each: Comparison) -> Line:
    difference = each.difference
    auroc = "–" if math.isnan(each.auroc) else text.signed(each.auroc, 3)
    cells = (
        _difference(difference.value, difference.low, difference.high, table.info.digits),
        Shown(probability(difference.p)),
        Shown(probability(each.p_mcnemar)),
        Shown(auroc),
        Shown(probability(each.p_delong)),
    )
    seeds = f" ({each.seeds} seeds)" if each.seeds > 1 else ""
    return Line(f"{_method(table, each.column)}{seeds}", cells)


def _comparison_data(table: Table, each: Comparison) -> dict[str, Any]:
    return {
        **table.columns[each.column],
        "seeds": each.seeds,
        "difference": each.difference.value,
        "low": _or_none(each.difference.low),
        "high": _or_none(each.difference.high),
        "p_bootstrap_holm": _or_none(each.difference.p),
        "p_mcnemar_holm": _or_none(each.p_mcnemar),
        "auroc_difference": _or_none(each.auroc),
        "p_delong_holm": _or_none(each.p_delong),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _difference(value: float, low: float, high: float, digits: int) -> Shown:
    bounds = "" if math.isnan(low) else f"[{text.signed(low, digits)}, {text.signed(high, digits)}]"
    return Shown(text.signed(value, digits), bounds)


def _method(table: Table, j: int) -> str:
    return text.column_title(table.columns[j])


def _place(table: Table, i: int, images: int, units: int) -> str:
    names = [text.label(name, table.rows[i][name]) for name in text.varying(table) or [table.across]]
    groups = "" if units == images else f", {units:,} groups"
    return f"{' · '.join(names)}: {images:,} test images{groups}"


def _power(table: Table, block: Block, over: OverDatasets) -> list[str]:
    """Return what the tests over datasets say, and what they never could."""
    where = f"{heading}: " if (heading := text.heading(table, block)) else ""
    said = []
    if over.friedman:
        statistic, p = over.friedman
        least = "" if p < 0.05 else ", so that no pair is told apart"
        said.append(
            f"{where}Friedman's test that all {over.methods} methods rank alike: χ² = {statistic:.2f}, p = {probability(p)}{least}"
        )
    if math.isnan(over.critical_difference):
        said.append(
            f"{where}Friedman's test and Nemenyi's need 3 methods and 2 datasets with a value of each: here {over.methods} and "
            f"{over.datasets}"
        )
    if few := [number for effect in over.effects if (number := len(effect.differences)) < WILCOXON]:
        some = " for methods on so few" if len(few) < len(over.effects) else ""
        said.append(
            f"{where}power: of {max(few)} datasets Wilcoxon's signed-rank test has no p below {smallest_wilcoxon_p(max(few)):.4g}: "
            f"no pair of methods can reach 0.05 by it, whatever the numbers; it is not shown{some}"
        )
    if not math.isnan(over.critical_difference):
        said.append(
            f"{where}power: Nemenyi needs average ranks {over.critical_difference:.2f} apart, where {over.methods} methods have "
            f"{over.methods - 1} at most"
        )
    return said if where else [text.capitalised(line) for line in said]
