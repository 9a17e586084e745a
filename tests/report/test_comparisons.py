"""Tests between methods: what is compared with what, what is left out and why, and what is said of power."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from medpeft_cli.errors import RecipeError
from medpeft_cli.metrics.classification import point
from medpeft_cli.metrics.predictions import write_predictions
from medpeft_cli.report import Question, build_report, files, render
from medpeft_cli.report.comparison_sheets import probability
from medpeft_cli.report.comparisons import critical_difference, smallest_wilcoxon_p

CLASSES = ("nv", "mel", "bcc")
DATASETS = ("breastus", "fitzpatrick", "isic", "smdg", "pneumonia")


def predictions(folder, skill, seed, n=60, groups=None, ids=None):
    """Predictions of a run that is right more often the larger its skill."""
    rng = np.random.default_rng(1)  # the test split is the same for all
    labels = rng.integers(0, 3, n)
    rng = np.random.default_rng([seed, int(100 * skill)])
    logits = rng.normal(size=(n, 3)) + skill * (labels[:, None] == np.arange(3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = ids or [f"image{i}" for i in range(n)]
    names = [CLASSES[k] for k in labels]
    write_predictions(folder / "predictions.csv", ids, groups or ids, names, probabilities, CLASSES)
    return point(probabilities, labels, "f1_macro")


@pytest.fixture
def tested(record, tmp_path):
    """Write runs (dataset, method, seed, skill) with their predictions; return the folder of results."""

    def write(*runs, **options):
        results = tmp_path / "results"
        shutil.rmtree(results, ignore_errors=True)
        for dataset, method, seed, skill in runs:
            folder = results / f"{dataset}-{method}-{seed}"
            folder.mkdir(parents=True)
            value = predictions(folder, skill, seed, **options)
            (folder / "record.json").write_text(json.dumps(record(dataset, method, seed, value)))
        return results

    return write


def compared(results):
    return build_report(results, Question(baseline="full")).tests[0]


def test_each_method_is_compared_on_each_test_split(tested):
    results = tested(
        *(
            (d, m, s, skill)
            for d in ("isic", "smdg")
            for m, skill in (("full", 1), ("ssf", 4), ("lora", 1))
            for s in range(2)
        )
    )
    tests = compared(results)
    assert tests.baseline == "Full FT" and [row.row for row in tests.rows] == [0, 1] and tests.left_out == ()
    for row in tests.rows:
        assert (row.images, row.units) == (60, 60)
        found = {tests.table.columns[each.column]["method"]: each for each in row.comparisons}
        assert found.keys() == {"SSF", "LoRA"} and all(each.seeds == 2 for each in found.values())
        cells = tests.table.cells[row.row]
        assert found["SSF"].difference.value == pytest.approx(cells[2].mean - cells[0].mean)
        assert found["SSF"].difference.low > 0 and found["SSF"].difference.p <= 0.004 and found["SSF"].p_mcnemar < 0.01
        assert found["LoRA"].difference.p > 0.05


def test_groups_are_what_is_resampled(tested):
    runs = [("isic", "full", 0, 1), ("isic", "ssf", 0, 2)]
    (alone,) = compared(tested(*runs)).rows
    (grouped,) = compared(tested(*runs, groups=[f"patient{i // 6}" for i in range(60)])).rows
    assert (grouped.images, grouped.units, alone.units) == (60, 10, 60)
    assert grouped.comparisons[0].difference.low != alone.comparisons[0].difference.low


def test_what_cannot_be_compared_is_said(tested):
    results = tested(
        *(("isic", method, 0, 1) for method in ("full", "ssf", "lora", "norm")),
        ("smdg", "ssf", 0, 1),
        ("smdg", "full", 0, 1),
    )
    (results / "isic-ssf-0" / "predictions.csv").unlink()
    predictions(results / "isic-lora-0", 1, 0, ids=[f"other{i}" for i in range(60)])
    (results / "smdg-full-0" / "predictions.csv").write_text("id,group\n")
    tests = compared(results)
    assert [[tests.table.columns[c.column]["method"] for c in row.comparisons] for row in tests.rows] == [
        ["LayerNorm tuning"]
    ]
    said = "\n".join(tests.left_out)
    for part in (
        "predictions.csv: no such file",
        "LoRA, seed 0: other test images or labels",
        "SMDG (7,511): no predictions of Full FT",
    ):
        assert part in said
    sheet = build_report(results, Question(baseline="full")).sheets[1]
    assert set(tests.left_out) <= set(sheet.notes) and str(results) not in said


def test_seeds_without_a_partner_are_no_pair(tested):
    results = tested(("isic", "full", 0, 1), ("isic", "ssf", 0, 2), ("isic", "ssf", 1, 2), ("isic", "lora", 5, 1))
    (row,) = compared(results).rows
    assert [(each.column, each.seeds) for each in row.comparisons] == [(2, 1)]


def test_effects_over_datasets_have_students_interval_and_a_note_on_power(tested):
    skills = {"full": 1, "ssf": 2, "lora": 1.5, "norm": 0.5}
    results = tested(*((d, m, i, skill) for i, d in enumerate(DATASETS) for m, skill in skills.items()))
    report = build_report(results, Question(baseline="full"))
    (over,) = report.tests[0].blocks
    table = report.tables[0]
    apart = [table.cells[i][2].mean - table.cells[i][0].mean for i in range(5)]
    effect = next(each for each in over.effects if each.column == 2)
    interval = stats.t.interval(0.95, 4, loc=np.mean(apart), scale=stats.sem(apart))
    assert (effect.low, effect.high) == pytest.approx(interval) and effect.differences == pytest.approx(apart)
    values = np.array([[round(cell.mean, 3) for cell in row] for row in table.cells])
    assert over.friedman == pytest.approx(tuple(stats.friedmanchisquare(*values.T)))
    assert (over.datasets, over.methods, set(over.nemenyi)) == (5, 4, {1, 2, 3})
    notes = " ".join(report.sheets[-1].notes)
    assert "no p below 0.0625" in notes and "average ranks 2.10 apart, where 4 methods have 3 at most" in notes
    assert "U+" not in render(report, "latex") and r"$\chi$$^2$" in render(report, "latex")
    header, *lines = files(report, ["csv"])["tests.csv"].splitlines()
    assert header.startswith("baseline,dataset,") and "p_bootstrap_holm" in header and len(lines) == 5 * 3
    out = render(report, "markdown")
    assert "p, Nemenyi" in out and "\\*\\*\\*" not in out
    data = json.loads(render(report, "json"))["tests"][0]
    assert data["over_datasets"][0]["smallest_wilcoxon_p"] == 0.0625 and len(data["test_splits"]) == 5


def test_power_is_said_of_the_datasets_that_each_method_has(record, results):
    """SSF on six datasets can reach 0.05 by Wilcoxon; LoRA on five of them cannot."""
    datasets = (*DATASETS, "own")
    values = {"full": 0.5, "ssf": 0.53, "lora": 0.56}
    runs = [
        record(d, m, value=value + i * 0.05 + (i * place % 3) * 0.01)
        for i, d in enumerate(datasets)
        for place, (m, value) in enumerate(values.items())
        if (d, m) != ("own", "lora")
    ]
    report = build_report(results(*runs), Question(baseline="full"))
    sheet = report.sheets[-1]
    assert sheet.heads[-1] == "p, Wilcoxon" and any("Wilcoxon: signed-rank" in said for said in sheet.caption)
    lora, ssf = sheet.sections[0].lines
    assert [line.cells[-1].value for line in (lora, ssf)] == ["–", "0.031"]
    assert any("of 5 datasets" in note and "not shown for methods on so few" in note for note in sheet.notes)
    over = json.loads(render(report, "json"))["tests"][0]["over_datasets"][0]
    assert over["smallest_wilcoxon_p"] == 2 / 64 and over["methods"][1]["p_wilcoxon_holm"] == 2 / 64


def test_wilcoxons_p_is_adjusted_for_the_methods(record, results):
    runs = [
        record(f"d{i}", m, value=value + i * 0.01 + i * place * 0.003)
        for i in range(7)
        for place, (m, value) in enumerate({"full": 0.5, "ssf": 0.53, "lora": 0.48}.items())
    ]
    (over,) = build_report(results(*runs), Question(baseline="full")).tests[0].blocks
    alone = [stats.wilcoxon(effect.differences).pvalue for effect in over.effects]
    assert [effect.p_wilcoxon for effect in over.effects] == pytest.approx(
        [max(2 * min(alone), max(alone)), 2 * min(alone)]
    )


def test_two_methods_have_no_friedman_and_it_is_said(record, results):
    runs = [record(d, m, value=v + i / 50) for i, d in enumerate(DATASETS) for m, v in (("full", 0.5), ("ssf", 0.6))]
    notes = build_report(results(*runs), Question(baseline="full")).sheets[-1].notes
    assert "Friedman's test and Nemenyi's need 3 methods and 2 datasets with a value of each: here 2 and 5" in notes


def test_a_caption_says_what_the_tests_do_not(tested):
    report = build_report(tested(("isic", "full", 0, 1), ("isic", "ssf", 0, 2)), Question(baseline="full"))
    said = " ".join(report.sheets[1].caption)
    assert "each test by itself" in said and "of these trained models, and say nothing of other seeds" in said


def test_a_p_that_one_seed_does_not_have_is_not_the_largest_of_the_others(tested):
    results = tested(*(("isic", m, s, 1) for m in ("full", "ssf") for s in range(2)), groups=["a", "b"] * 30)
    for method, right in (("full", False), ("ssf", True)):  # nothing varies between the patients
        path = results / f"isic-{method}-1" / "predictions.csv"
        labels = np.random.default_rng(1).integers(0, 3, 60)
        probabilities = np.eye(3)[labels if right else (labels + 1) % 3]
        ids = [f"image{i}" for i in range(60)]
        write_predictions(path, ids, ["a", "b"] * 30, [CLASSES[k] for k in labels], probabilities, CLASSES)
    (row,) = compared(results).rows
    assert row.comparisons[0].seeds == 2 and np.isnan(row.comparisons[0].p_mcnemar)


def test_facts_of_the_field_notes():
    assert smallest_wilcoxon_p(5) == stats.wilcoxon([1, 2, 3, 4, 5]).pvalue
    assert critical_difference(17, 5) == pytest.approx(11.05, abs=0.005)


def test_without_a_baseline_nothing_is_read_or_said(tested):
    results = tested(("isic", "full", 0, 1), ("isic", "ssf", 0, 2))
    for path in results.rglob("predictions.csv"):
        path.write_text("damaged")
    report = build_report(results)
    assert report.tests == [] and len(report.sheets) == 1 and '"tests"' not in render(report, "json")


def test_an_unknown_baseline_is_refused(tested):
    with pytest.raises(RecipeError, match="unknown method of these runs 'fulll'") as caught:
        build_report(tested(("isic", "full", 0, 1)), Question(baseline="fulll"))
    assert "did you mean 'full'" in caught.value.hint


def test_generated_pictures_have_no_test_on_one_dataset(record, results):
    scores = {"metrics": {"test": {"n": 9, "overall": {"fid": {"value": 20.0}}}}, "family": "unet"}
    report = build_report(
        results(record("mimic_cxr", "full", **scores), record("mimic_cxr", "bias", **scores)), Question(baseline="full")
    )
    assert report.tests[0].rows == () and "no value for each image" in report.tests[0].left_out[0]


@pytest.mark.parametrize(("p", "shown"), [(0.04561, "0.046"), (0.0004, "< 0.001"), (1.0, "1.000"), (float("nan"), "–")])
def test_a_p_has_three_digits(p, shown):
    assert probability(p) == shown


def test_the_tests_import_no_torch():
    code = "import sys, medpeft_cli.report.comparison_sheets; print('torch' in sys.modules, 'scikit_posthocs' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
