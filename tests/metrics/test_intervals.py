"""Bootstrap intervals: what they contain, how they shrink, what they depend on."""

import numpy as np
import pytest

from medpeft_cli.errors import DataError
from medpeft_cli.metrics import intervals
from medpeft_cli.metrics.classification import score
from medpeft_cli.metrics.intervals import percentile_interval, resample_counts


def scored(images: int, *, seed: int = 0, copies: int = 1, **options) -> dict:
    rng = np.random.default_rng(7)
    probabilities = np.repeat(rng.dirichlet(np.ones(4), size=images), copies, axis=0)
    labels = np.repeat([rng.choice(4, p=0.5 * row + 0.125) for row in probabilities[::copies]], copies)
    return score(probabilities, labels, list("abcd"), **{"bootstrap": 300, "confidence": 0.95, "seed": seed} | options)


def width(estimate: dict) -> float:
    return estimate["high"] - estimate["low"]


def test_intervals_contain_the_value_of_metrics_that_are_hardly_biased():
    result = scored(400)
    for name in result["overall"].keys() - {"ece"}:  # noise biases ECE upwards
        estimate = result["overall"][name]
        assert estimate["low"] < estimate["value"] < estimate["high"], name
    for name in "abcd":
        for metric in ("precision", "recall", "f1", "auroc", "average_precision"):
            estimate = result["per_class"][name][metric]
            assert estimate["low"] < estimate["value"] < estimate["high"]


def test_interval_of_accuracy_is_the_binomial_one():
    estimate = scored(900, bootstrap=2000)["overall"]["accuracy"]
    p = estimate["value"]
    assert width(estimate) == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 900), rel=0.1)  # Monte Carlo error


def test_more_images_and_less_confidence_narrow_an_interval():
    few, many, unsure = scored(100), scored(1600), scored(100, confidence=0.5)
    for metric in ("f1_macro", "accuracy", "auroc_ovr", "nll"):
        assert width(many["overall"][metric]) < 0.5 * width(few["overall"][metric])
        assert width(unsure["overall"][metric]) < width(few["overall"][metric])


def test_same_seed_same_interval_and_another_seed_another():
    assert scored(80) == scored(80)
    assert scored(80)["overall"]["f1_macro"] != scored(80, seed=1)["overall"]["f1_macro"]


def test_block_size_does_not_change_the_result(monkeypatch):
    whole = scored(80)
    monkeypatch.setattr(intervals, "BLOCK_CELLS", 80 * 7)
    blocked = scored(80)
    for name, estimate in whole["overall"].items():
        assert blocked["overall"][name] == pytest.approx(estimate, abs=1e-12)  # BLAS may sum in another order


def test_without_resamples_there_is_a_value_and_no_interval():
    estimate = scored(50, bootstrap=0)["overall"]["f1_macro"]
    assert estimate["value"] is not None and estimate["low"] is estimate["high"] is None


def test_copies_of_a_patient_narrow_the_image_interval_but_not_the_group_interval():
    patients = np.repeat([f"p{i}" for i in range(100)], 9)
    single = width(scored(100)["overall"]["accuracy"])
    by_image = width(scored(100, copies=9)["overall"]["accuracy"])
    by_group = scored(100, copies=9, groups=patients)
    assert by_group["protocol"]["unit"] == "group" and by_group["protocol"]["units"] == 100 and by_group["n"] == 900
    assert by_image == pytest.approx(single / 3, rel=0.25)
    assert width(by_group["overall"]["accuracy"]) == pytest.approx(single, rel=0.25)


def test_groups_are_resampled_whole():
    units = np.array([0, 1, 1, 2, 2, 2])
    counts = np.concatenate(list(resample_counts(units, 50, seed=0)), axis=1)
    assert counts.shape == (6, 50)
    assert (counts[1] == counts[2]).all() and (counts[3] == counts[5]).all()
    assert (counts[0] + counts[1] + counts[3] == 3).all()  # three units drawn from three


def test_one_group_has_no_interval_and_says_why():
    result = scored(30, groups=["the patient"] * 30)
    assert result["overall"]["accuracy"]["low"] is None
    assert result["protocol"]["bootstrap"] == 0
    assert "one group" in result["protocol"]["undefined"]["intervals"]


def test_groups_must_fit_the_images():
    with pytest.raises(DataError, match="2 groups for 30 images"):
        scored(30, groups=["a", "b"])


def test_percentiles_leave_undefined_resamples_out():
    values = np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [np.nan, 1.0, np.nan, 3.0, np.nan], [np.nan] * 5])
    low, high = percentile_interval(values, 0.5)
    np.testing.assert_array_equal(low, [1.0, 1.5, np.nan])
    np.testing.assert_array_equal(high, [3.0, 2.5, np.nan])
