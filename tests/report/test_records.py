"""Reading a results folder: everything usable is read, everything else is listed, nothing crashes."""

import json
import shutil

import pytest

from medpeft_cli.errors import DataError
from medpeft_cli.report.records import parse_record, read_records


def test_records_are_found_at_any_depth_but_not_inside_runs(record, results):
    folder = results(record(seed=0), record(seed=1))
    run = next(folder.rglob("record.json")).parent
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "record.json").write_text("{}")
    runs, problems = read_records(folder)
    assert [run.seed for run in runs] == [0, 1] and problems == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "half written or damaged: line 1"),
        ('{"schema_version": 1, "id"', "half written or damaged: line 1, column 27"),
        ("[1, 2]", "not a record: got a JSON list"),
        ("{}", "schema version None, wanted 1"),
        ('{"schema_version": 0}', "schema version 0, wanted 1"),
        ('{"schema_version": 1}', "id: field required (and 5 more)"),
        ("[" * 100_000, ""),
        (
            '{"schema_version": 1, "id": "a", "identity": "a", "cell": "a", "status": "finished", "demo": false, '
            '"results_revision": 1, "metrics": {"test": {"n": 3, "overall": {"f1_macro": {"value": 1e999}}}}}',
            "metrics.test.overall.f1_macro.value: input should be a finite number",
        ),
    ],
)
def test_an_unusable_record_is_a_problem(record, results, text, reason):
    folder = results(record())
    (folder / "bad").mkdir()
    (folder / "bad" / "record.json").write_text(text)
    runs, problems = read_records(folder)
    assert len(runs) == 1
    assert [problem.path for problem in problems] == ["bad/record.json"] and reason in problems[0].reason


def test_a_record_that_is_not_text_is_a_problem(record, results):
    folder = results(record())
    (folder / "bad").mkdir()
    (folder / "bad" / "record.json").write_bytes(b"\xff\xfe\x00")
    assert read_records(folder).problems == [("bad/record.json", "half written or damaged: not UTF-8")]


def test_wrong_types_are_named(record, results):
    folder = results(record(), record(seed=1, metrics={"test": {"n": 3, "overall": "good"}}))
    runs, problems = read_records(folder)
    assert len(runs) == 1 and problems[0].reason.startswith("metrics.test.overall: ")


def nested(levels):
    return "x" if levels == 0 else {"a": nested(levels - 1)}


DAMAGED = [
    ({"recipe": {"data": {"k_shot": "many"}}}, "recipe.data.k_shot: got 'many', wanted a whole number above 0"),
    ({"recipe": {"data": {"k_shot": [1, 2]}}}, "recipe.data.k_shot: got [1, 2]"),
    ({"recipe": {"data": {"k_shot": 0}}}, "recipe.data.k_shot: got 0"),
    ({"fraction": -0.5}, "recipe.data.fraction: got -0.5, wanted more than 0 and at most 1"),
    ({"fraction": 1e300}, "recipe.data.fraction: got 1e+300"),
    ({"recipe": {"data": {"fraction": "half"}}}, "recipe.data.fraction: got 'half'"),
    ({"parameters": {"total": 1, "method": -5, "head": 3}}, "parameters.method: input should be greater than or equal"),
    ({"parameters": {"total": 1, "method": 10**400, "head": 3}}, "a number of 401 digits"),
    ({"memory": {"peak_bytes": 10**400}}, "a number of 401 digits"),
    ({"recipe": {"train": nested(900)}}, "recipe: more than 20 lists and maps inside each other"),
    ({"environment": {"versions": [nested(30)]}}, "environment: more than 20 lists and maps inside each other"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), DAMAGED, ids=range(len(DAMAGED)))
def test_values_that_would_break_a_report_are_a_problem(record, results, changes, reason):
    folder = results(record(), record(seed=1, id="damaged", **changes))
    runs, problems = read_records(folder)
    assert len(runs) == 1 and reason in problems[0].reason


def test_nan_is_undefined():
    text = '{"schema_version": 1, "id": "a", "identity": "a", "cell": "a", "status": "finished", "demo": false, '
    text += '"results_revision": 1, "metrics": {"test": {"n": 3, "overall": {"f1_macro": {"value": NaN, "low": 0}}}}}'
    run = parse_record(text)
    assert run.test is not None and run.test.overall["f1_macro"].value is None


def test_a_copied_run_counts_once_and_the_finished_copy_wins(record, results):
    folder = results(record(seed=0), record(seed=1))
    run = sorted(folder.rglob("record.json"))[1].parent
    shutil.copytree(run, folder / "copy")
    runs, problems = read_records(folder)
    assert [run.seed for run in runs] == [1, 0] or [run.seed for run in runs] == [0, 1]
    assert len(problems) == 1 and "counted once" in problems[0].reason
    failed = json.loads((run / "record.json").read_text()) | {"status": "failed"}
    for place in (folder / "copy", folder / "a_copy"):
        place.mkdir(exist_ok=True)
        (place / "record.json").write_text(json.dumps(failed))
    runs, problems = read_records(folder)
    assert len(runs) == 2 and len(problems) == 2
    assert all(run.status == "finished" for run in runs)


@pytest.mark.parametrize(
    "other", [{"manifest": "b" * 64}, {"weights": {"source": "pretrained", "sha256": "b" * 64}}, {"revision": 2}]
)
def test_one_recipe_on_other_data_weights_or_revision_is_another_run(record, results, other):
    first = record(weights={"source": "pretrained", "sha256": "a" * 64})
    second = record(**({"weights": first["weights"]} | other))
    folder = results(first, second | {"id": "another"})
    runs, problems = read_records(folder)
    assert first["identity"] == second["identity"]
    assert len(runs) == 2 and problems == []


def test_random_weights_are_no_version(record, results):
    """They follow from the seed: on two machines a copy of one run, never a second seed."""
    recipe = {"backbone": {"weights": "random"}}
    both = [record(recipe=recipe, weights={"source": "random", "sha256": sign * 64}) for sign in "ab"]
    runs, problems = read_records(results(both[0], both[1] | {"id": "another"}))
    assert len(runs) == 1 and "counted once" in problems[0].reason


def test_a_missing_folder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_records(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        ("failed", "RunError: loss became nan\nmore", "failed: RunError: loss became nan"),
        ("failed", {"message": "out of memory"}, "failed: out of memory"),
        ("failed", None, "failed"),
        ("cancelled", None, "cancelled"),
        ("running", None, "running, or killed: the same command goes on"),
        ("trained", None, "trained, not scored: give it to `medpeft evaluate`"),
    ],
)
def test_a_run_without_a_result_says_why(record, status, error, reason):
    assert parse_record(json.dumps(record(status=status, error=error))).reason == reason
