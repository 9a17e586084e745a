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


def test_a_target_is_a_floor_or_a_ceiling():
    floor, ceiling, none = (
        compare("part", "what", "s", [2.0], [1.0], **target) for target in ({"at_least": 2}, {"at_most": 1.99}, {})
    )
    assert (floor.met, ceiling.met, none.met) == (True, False, True)
    assert (floor.target, ceiling.target, none.target) == ("≥ 2", "≤ 1.99", None)


def test_works_take_turns_and_the_first_turn_is_not_counted():
    order = []
    found = take_turns(2, ours=lambda: order.append("ours"), bare=lambda: order.append("bare"))
    assert order == ["ours", "bare"] * 3
    assert {name: len(values) for name, values in found.items()} == {"ours": 2, "bare": 2}
    assert all(math.isfinite(value) for values in found.values() for value in values)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_with_no_option_and_has_a_place_on_the_page(part):
    module = importlib.import_module(f"benchmarks.{part}")
    assert (
        getattr(module.arguments([]), "repeats", 2) > 1
    )  # a peak of memory, and what recipes ask for, vary too little
    assert callable(module.rows)
    assert f"<!-- {part} -->\n" in PAGE.read_text()


def test_a_part_is_written_over_its_own_table_alone():
    page = "one\n<!-- a -->\nold\n<!-- end of a -->\ntwo\n<!-- b -->\nkept\n<!-- end of b -->\n"
    row = compare("a", "what", "s", [1.0], [2.0], at_most=1)
    found = written(page, "a", [row], "here")
    assert found == page.replace("old", f"here\n\n{markdown([row])}")
    assert written(found, "a", [row], "here") == found


def test_what_a_grid_asks_for_is_counted_by_hand(tmp_path, root):
    whole = importlib.import_module("benchmarks.whole")
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"recipes: [{root}/recipes/isic_linear.yaml, {root}/recipes/isic_ssf.yaml]\nmatrix: {{seed: [0, 1]}}\n"
    )
    train, val, test = 0.75 * 10_015, 0.125 * 10_015, 0.125 * 10_015
    trained, validated, ends = 30 * train, 30 * val, 2 * val + test
    run, search = (trained, validated + ends), (8 * trained, 8 * validated)
    found = list(whole.works(grid))
    assert [work.everything for work in found] == [pytest.approx(pair) for pair in [run, search, run] * 2]
    assert [work.group for work in found] == ["linear"] * 3 + ["others"] * 3
    checks = 2 * 128 + test  # each run looks at a batch of the whole network, twice, and predicts the test split
    assert [work.frozen_once for work in found[:3]] == [
        pytest.approx(pair) for pair in [(trained, val + checks), (8 * trained, 0), (trained, checks)]
    ]
    assert [work.unaugmented for work in found[:3]] == [
        pytest.approx(pair) for pair in [(0, train + val + checks), (0, 0), (0, checks)]
    ]
    assert all(work.frozen_once == work.unaugmented == work.everything for work in found[3:])
