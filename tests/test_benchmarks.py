"""The arithmetic behind the tables of `make bench`; nothing is timed."""

import importlib
import math

import pytest

from benchmarks.__main__ import PAGE, PARTS, written
from benchmarks.measure import compare, markdown, take_turns


def test_a_ratio_is_of_repeats_that_ran_beside_each_other():
    row = compare("part", "what", "images/s", [90.0, 200.0, 30.0], [120.0, 160.0, 40.0], at_least=0.95)
    assert (row.ours, row.other) == (90.0, 120.0)
    assert (row.ratio, row.low, row.high) == (0.75, 0.75, 1.25)
    assert not row.met and "missed" in markdown([row])


@pytest.mark.parametrize(
    ("target", "met", "words"),
    [
        ({"at_least": 2}, True, "≥ 2"),
        ({"at_most": 1.99}, False, "≤ 1.99"),
        ({"at_least": 1.5, "at_most": 2.5}, True, "1.5–2.5"),
        ({}, True, None),
    ],
)
def test_a_target_is_a_floor_or_a_ceiling_or_both(target, met, words):
    row = compare("part", "what", "s", [2.0], [1.0], **target)
    assert (row.met, row.target) == (met, words)


def test_a_single_repeat_has_no_spread():
    assert "min–max" in markdown([]) and "2.000 |  |" in markdown([compare("part", "what", "s", [2.0], [1.0])])


def test_works_take_turns_and_the_first_turn_is_not_counted():
    order = []
    found = take_turns(2, ours=lambda: order.append("ours"), bare=lambda: order.append("bare"))
    assert order == ["ours", "bare"] * 3
    assert {name: len(values) for name, values in found.items()} == {"ours": 2, "bare": 2}
    assert all(math.isfinite(value) for values in found.values() for value in values)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_with_no_option_and_has_a_place_on_the_page(part):
    module = importlib.import_module(f"benchmarks.{part}")
    assert module.arguments([])
    assert callable(module.rows)
    assert f"<!-- {part} -->\n" in PAGE.read_text()


def test_a_part_is_written_over_its_own_table_alone():
    page = "one\n<!-- a -->\nold\n<!-- end of a -->\ntwo\n<!-- b -->\nkept\n<!-- end of b -->\n"
    row = compare("a", "what", "s", [1.0], [2.0], at_most=1)
    found = written(page, "a", [row], "here")
    assert found == page.replace("old", f"here\n\n{markdown([row])}")
    assert written(found, "a", [row], "here") == found
