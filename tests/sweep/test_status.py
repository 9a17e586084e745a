"""Plan, status and retry say what the records say, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.grid import expand
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.sweep.plan import breakdown, time_left
from medpeft_cli.sweep.show import duration
from medpeft_cli.sweep.status import counts, groups_of_results, put_back, standings_of
from tests.sweep.conftest import GRID


def now(cells, tmp_path):
    return [stands.state for stands in standings_of(cells, tmp_path / "results")]


def timing(train, evaluate):
    return {"train_seconds": train, "eval_seconds": evaluate, "images_per_second": 9.0}


def test_every_status_of_a_record_has_its_state(cells, record, tmp_path):
    record(cells[0], "finished", timing=timing(50.0, 10.0))
    record(cells[1], "failed", error="RunError: loss became nan at step 3\nmore")
    record(cells[2], "running")
    record(cells[3], "cancelled")
    record(cells[4], "trained")
    held = record(cells[5], "running")
    again = record(cells[6], "failed", error="RunError: an earlier start")
    with run_lock(held), run_lock(again), run_lock(tmp_path / f"results/full/{cells[7].run}"):
        found = standings_of(cells, tmp_path / "results")
    assert [(stands.state, stands.note) for stands in found[:5]] == [
        ("done", ""),
        ("failed", "RunError: loss became nan at step 3"),
        ("to do", "interrupted"),
        ("to do", "cancelled"),
        ("to do", "trained, not scored"),
    ]
    assert found[0].seconds == 60.0
    assert [stands.state for stands in found[5:8]] == ["running"] * 3
    assert all(f"process {os.getpid()} on" in stands.note for stands in found[5:8])
    assert counts(found) == {"done": 1, "failed": 1, "running": 3, "to do": 15}
    assert now(cells, tmp_path)[5:8] == ["to do", "failed", "to do"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not readable"),
        ('{"schema_version": 7}', "schema version 7, wanted 1"),
        ('{"schema_version": 1, "id": "x"}', "damaged record"),
        ("[]", "schema version None, wanted 1"),
    ],
)
def test_a_record_that_cannot_be_read_counts_as_failed_and_holds_no_other_back(
    cells, record, tmp_path, medpeft, text, why
):
    (record(cells[0], "finished") / "record.json").write_text(text)
    record(cells[1], "failed", error="RunError: x")
    (found, *_) = standings_of(cells, tmp_path / "results")
    assert found.state == "failed" and why in found.note
    result = medpeft("sweep", "retry", "grid.yaml", "--failed")
    assert result.exit_code == 3 and "1 run put back" in result.stdout
    assert why in result.stderr and "hint: use another --results folder" in result.stderr
    assert now(cells, tmp_path)[:2] == ["failed", "to do"]
    assert (found.run_dir / "record.json").read_text() == text


@pytest.mark.parametrize(
    "damage",
    [
        {"timing": None, "environment": [], "search": "x"},
        {
            "timing": {"train_seconds": "long", "eval_seconds": None, "generate_seconds": True},
            "search": {"seconds": {}},
        },
    ],
)
def test_a_damaged_section_of_a_finished_record_is_passed_over(cells, record, tmp_path, medpeft, damage):
    record(cells[0], "finished", **damage)
    (found, *_) = standings_of(cells, tmp_path / "results")
    assert (found.state, found.seconds, found.device_seconds, found.search_seconds) == ("done", 0, 0, 0)
    for command in ("status", "plan"):
        assert "1 done" in medpeft("sweep", command, "grid.yaml").output


def test_a_status_that_is_no_word_is_shown(cells, record, tmp_path):
    record(cells[0], ["odd"])
    assert standings_of(cells, tmp_path / "results")[0].note == "['odd']"


def test_retry_leaves_alone_what_has_changed_since_it_was_listed(cells, record, tmp_path):
    held, again = (record(cell, "failed", error="RunError: x") for cell in cells[:2])
    found = standings_of(cells, tmp_path / "results")
    (again / "record.json").write_text((again / "record.json").read_text().replace('"failed"', '"finished"'))
    with run_lock(held):
        assert put_back(found) == ([], [])
    assert now(cells, tmp_path)[:2] == ["failed", "done"]


def test_retry_lists_failed_runs_and_puts_them_back_when_told(cells, record, tmp_path, medpeft):
    record(cells[0], "finished")
    record(cells[1], "failed", error="RunError: out of memory")
    folder = record(cells[2], "failed", error="DataError: \x1b[31mred")
    result = medpeft("sweep", "retry", "grid.yaml")
    assert f"failed  {cells[1].run}: RunError: out of memory" in result.output
    assert "\\x1b[31mred" in result.output and "\x1b" not in result.output
    assert "medpeft sweep retry grid.yaml --failed" in result.output and "2 runs failed" in result.output
    assert now(cells, tmp_path)[:3] == ["done", "failed", "failed"]
    assert "2 runs put back" in medpeft("sweep", "retry", "grid.yaml", "--failed").output
    assert now(cells, tmp_path)[:3] == ["done", "to do", "to do"]
    assert json.loads((folder / "record.json").read_text())["error"] is None
    assert "0 runs put back" in medpeft("sweep", "retry", "grid.yaml", "--failed").output


def test_the_time_left_is_that_of_the_runs_most_alike(cells, record, tmp_path):
    def left():
        return time_left(cells, standings_of(cells, tmp_path / "results"))

    assert left() is None
    record(cells[0], "finished", timing=timing(90.0, 10.0))  # full, 10 %: stands for all
    assert left() == (19 * 100.0, 1)
    record(cells[5], "finished", timing=timing(990.0, 10.0))  # full, 100 %
    assert left() == (4 * 100.0 + 4 * 1000.0 + 5 * 100.0 + 5 * 1000.0, 2)  # lora by the training set
    record(cells[15], "finished", timing=timing(490.0, 10.0))  # lora, 100 %
    assert left() == (4 * 100.0 + 4 * 1000.0 + 5 * 100.0 + 4 * 500.0, 3)


def test_a_search_counts_once_for_the_seeds_of_a_cell(cells, record, tmp_path):
    cells = expand(tmp_path / "grid.yaml", ["search={trials: 3, space: {train.weight_decay: {linear: [0, 1]}}}"])

    def left():
        return time_left(cells, standings_of(cells, tmp_path / "results"))

    # of 800 s of trials this run did 500, another seed the others
    record(cells[0], "finished", timing=timing(90.0, 10.0) | {"search_seconds": 500.0}, search={"seconds": 800.0})
    assert left() == (19 * 100.0 + 3 * 800.0, 1)
    record(cells[1], "finished", timing=timing(90.0, 10.0) | {"search_seconds": 300.0}, search={"seconds": 800.0})
    assert left() == (18 * 100.0 + 3 * 800.0, 2)
    record(cells[10], "finished", timing=timing(90.0, 10.0), search={"seconds": 400.0})  # lora, 10 %
    assert left() == (17 * 100.0 + 2 * 600.0, 3)  # at 100 % nothing is known yet


def test_every_process_of_a_run_counts(cells, record, tmp_path):
    record(cells[0], "finished", timing=timing(90.0, 10.0), environment={"processes": 4})
    assert time_left(cells, standings_of(cells, tmp_path / "results")) == (19 * 400.0, 1)


def test_plan_counts_the_searches(cells, medpeft):
    assert "search" not in medpeft("sweep", "plan", "grid.yaml").output
    search = "search: [{trials: 3, space: {train.weight_decay: {linear: [0, 1]}}}]"
    Path("grid.yaml").write_text(GRID.replace("matrix: {", f"matrix: {{{search}, "))
    assert "4 searches of 3 trials, each shared by all seeds\n" in medpeft("sweep", "plan", "grid.yaml").output


def test_plan_counts_and_prints_the_command_of_every_run(cells, record, medpeft):
    record(cells[0], "finished", timing=timing(90.0, 10.0))
    record(cells[1], "failed", error="RunError: x")
    told = json.loads(medpeft("--json", "sweep", "plan", "grid.yaml").output)
    assert {name: told[name] for name in ("count", "done", "failed", "running", "to do", "seconds_left")} == {
        "count": 20, "done": 1, "failed": 1, "running": 0, "to do": 18, "seconds_left": 1900.0,
    }  # fmt: skip
    assert told["grids"] == [
        {"grid": "grid", "runs": 20, "done": 1, "failed": 1, "running": 0, "to do": 18,
         "what": "2 training sets × 2 methods × 5 seeds"}
    ]  # fmt: skip
    assert [run["command"] for run in told["runs"]] == [cell.command(type(cell.path)("results")) for cell in cells]
    lines = medpeft("sweep", "plan", "grid.yaml", "--commands").output.splitlines()
    marks = ["  # done", "  # failed", *[""] * 18]
    assert lines == [run["command"] + mark for run, mark in zip(told["runs"], marks, strict=True)]
    text = medpeft("sweep", "plan", "grid.yaml").output
    assert "20 runs: 1 done, 1 failed, 18 to do" in text
    assert "time left: about 32 min on one device, judging by 1 finished run\n" in text


def test_status_of_a_folder_and_of_a_grid(cells, record, tmp_path, medpeft):
    record(cells[0], "finished")
    record(cells[1], "failed", error="RunError: why")
    record(cells[19], "finished")
    groups = groups_of_results(tmp_path / "results")
    assert [(group.name, len(group.standings)) for group in groups] == [("full", 2), ("lora", 1)]
    assert "3 runs: 2 done, 1 failed\n" in (text := medpeft("sweep", "status", "results").output)
    assert f"failed  {cells[1].run}: RunError: why" in text
    assert "20 runs: 2 done, 1 failed, 17 to do" in medpeft("sweep", "status", "grid.yaml").output
    told = json.loads(medpeft("--json", "sweep", "status", "results").output)
    assert (told["count"], told["done"], [run["state"] for run in told["runs"]]) == (3, 2, ["done", "failed", "done"])
    assert isinstance(medpeft("sweep", "status", "nothing.yaml").exception, RecipeError)


def test_set_is_part_of_every_command(cells, medpeft, tmp_path):
    setting = "evaluate.bootstrap=7"
    assert f"--set {setting}" in medpeft("sweep", "plan", "grid.yaml", "--commands", "--set", setting).output
    assert "20 runs: 20 to do" in medpeft("sweep", "status", "grid.yaml", "--set", setting).output
    medpeft("sweep", "submit", "grid.yaml", "--dry-run", "--set", setting)
    lines = (tmp_path / "results/sweeps/grid-1/runs.tsv").read_text().splitlines()
    assert len(lines) == 20 and all(f"--set {setting}" in line for line in lines)


def test_retry_names_itself_with_set(cells, record, medpeft, tmp_path):
    (other, *_) = expand(tmp_path / "grid.yaml", ["train.lr=0.25"])
    record(other, "failed", error="RunError: x")
    assert "0 runs failed" in medpeft("sweep", "retry", "grid.yaml").output
    text = medpeft("sweep", "retry", "grid.yaml", "--set", "train.lr=0.25").output
    assert "medpeft sweep retry grid.yaml --failed --set=train.lr=0.25" in text and "1 run failed" in text


def test_watch_ends_when_nothing_is_left(cells, record, medpeft):
    for cell in cells:
        record(cell, "finished")
    result = medpeft("sweep", "status", "grid.yaml", "--watch")
    assert result.output.rstrip().endswith("20 runs: 20 done")


def test_a_thousand_records(cells, record, tmp_path):
    for cell in cells:
        for copy in range(50):
            folder = record(cell, "finished")
            folder.rename(folder.with_name(f"{folder.name}-{copy}"))
    assert counts(one for group in groups_of_results(tmp_path / "results") for one in group.standings)["done"] == 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (150, "2 min"), (5400, "90 min"), (9000, "2.5 h"), (4.5e6, "1,250 h")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_what_is_no_full_product_is_told_with_commas(cells):
    assert breakdown(cells[:-1]) == "2 training sets, 2 methods, 5 seeds"
