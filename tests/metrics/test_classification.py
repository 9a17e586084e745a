"""Every metric against scikit-learn, counting by hand, or its closed form; and what is said where it is undefined."""

import importlib
import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.metrics.classification import (
    OVERALL,
    decision_metrics,
    point,
    probability_metrics,
    ranking_metrics,
    score,
)
from medpeft_cli.metrics.names import CLASSIFICATION


def predictions(images: int, classes: int, seed: int, digits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities (rounded to force ties) and labels that they say something about; every class is present."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.7), size=images)
    if digits is not None:
        probabilities = np.round(probabilities, digits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=0.6 * row + 0.4 / classes) for row in probabilities])
    labels[:classes] = np.arange(classes)
    return probabilities, labels


def values(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    names = [f"c{k}" for k in range(probabilities.shape[1])]
    scored = score(probabilities, labels, names, bootstrap=0, confidence=0.95, seed=0)
    return {name: estimate["value"] for name, estimate in scored["overall"].items()}


def by_sklearn(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    number = probabilities.shape[1]
    guess, truth = probabilities.argmax(axis=1), np.eye(number)[labels]
    w = {"sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": sk.accuracy_score(labels, guess, **w),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, guess, **w),
            "f1_macro": sk.f1_score(labels, guess, average="macro", zero_division=0, **w),
            "f1_weighted": sk.f1_score(labels, guess, average="weighted", zero_division=0, **w),
            "f1_micro": sk.f1_score(labels, guess, average="micro", zero_division=0, **w),
            "auroc_ovr": np.mean([sk.roc_auc_score(truth[:, k], probabilities[:, k], **w) for k in range(number)])
            if number > 2
            else sk.roc_auc_score(labels, probabilities[:, 1], **w),
            "average_precision_macro": np.mean(
                [sk.average_precision_score(truth[:, k], probabilities[:, k], **w) for k in range(number)]
            ),
            "nll": sk.log_loss(labels, probabilities, labels=range(number), **w),
            "brier": np.average(((probabilities - truth) ** 2).sum(axis=1), weights=weights),
        }


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("digits", [None, 2, 1])
def test_overall_metrics_equal_scikit_learn(classes, digits):
    probabilities, labels = predictions(300, classes, seed=classes, digits=digits)
    ours = values(probabilities, labels)
    for name, theirs in by_sklearn(probabilities, labels).items():
        assert ours[name] == pytest.approx(theirs, abs=1e-12), name


@pytest.mark.parametrize("digits", [None, 1])
def test_a_weight_counts_an_image_that_often(digits):
    probabilities, labels = predictions(120, 4, seed=5, digits=digits)
    weights = np.random.default_rng(1).integers(0, 4, size=120).astype(float)
    ours = {}
    for family in (decision_metrics, ranking_metrics, probability_metrics):
        ours |= family(probabilities, labels, weights[:, None])[0]
    for name, theirs in by_sklearn(probabilities, labels, weights).items():
        assert ours[name][0] == pytest.approx(theirs, abs=1e-12), name


def test_per_class_metrics_and_confusion_equal_scikit_learn():
    probabilities, labels = predictions(250, 5, seed=3, digits=2)
    guess = probabilities.argmax(axis=1)
    scored = score(probabilities, labels, list("abcde"), bootstrap=0, confidence=0.95, seed=0)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, guess, zero_division=0)
    assert scored["confusion"] == sk.confusion_matrix(labels, guess).tolist()
    for k, name in enumerate("abcde"):
        ours = scored["per_class"][name]
        assert ours["support"] == support[k]
        expected = {
            "precision": precision[k],
            "recall": recall[k],
            "f1": f1[k],
            "auroc": sk.roc_auc_score(labels == k, probabilities[:, k]),
            "average_precision": sk.average_precision_score(labels == k, probabilities[:, k]),
        }
        assert {metric: ours[metric]["value"] for metric in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 6])
def test_ece_equals_torchmetrics(classes):
    import torch

    from medpeft_cli import compat  # noqa: F401  before torchmetrics

    functional = importlib.import_module("torchmetrics.functional.classification")

    probabilities, labels = predictions(400, classes, seed=11)
    theirs = functional.multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=classes, n_bins=15, norm="l1"
    )
    assert point(probabilities, labels, "ece") == pytest.approx(float(theirs), abs=1e-6)  # theirs has float32 bins


def test_f1_by_counting():
    # true:      a a a a b b c ; predicted: a a a b b a c
    guess = np.array([0, 0, 0, 1, 1, 0, 2])
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    scored = score(np.eye(3)[guess], labels, list("abc"), bootstrap=0, confidence=0.95, seed=0)
    f1 = {"a": 2 * 3 / (4 + 4), "b": 2 * 1 / (2 + 2), "c": 1.0}
    assert {name: scored["per_class"][name]["f1"]["value"] for name in "abc"} == pytest.approx(f1)
    assert scored["overall"]["f1_macro"]["value"] == pytest.approx((0.75 + 0.5 + 1.0) / 3)
    assert scored["overall"]["f1_weighted"]["value"] == pytest.approx((4 * 0.75 + 2 * 0.5 + 1 * 1.0) / 7)
    assert scored["overall"]["accuracy"]["value"] == scored["overall"]["f1_micro"]["value"] == pytest.approx(5 / 7)
    assert scored["overall"]["balanced_accuracy"]["value"] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert scored["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_tie_counts_one_half_in_auroc():
    positive = np.array([0.9, 0.5, 0.5, 0.1])
    labels = np.array([1, 1, 0, 0])  # four pairs: three won, one tied
    assert point(np.stack([1 - positive, positive], axis=1), labels, "auroc_ovr") == pytest.approx(3.5 / 4)


def test_equal_probabilities_have_chance_auroc_and_prevalence_as_average_precision():
    labels = np.array([0, 0, 0, 1])
    scored = score(np.full((4, 2), 0.5), labels, ["no", "yes"], bootstrap=0, confidence=0.95, seed=0)
    assert scored["overall"]["auroc_ovr"]["value"] == 0.5
    assert scored["per_class"]["yes"]["average_precision"]["value"] == pytest.approx(1 / 4)


def test_calibration_in_closed_form():
    # ten images at confidence 0.8, six of them right: gap 0.2
    probabilities = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    ours = values(probabilities, labels)
    assert ours["ece"] == pytest.approx(0.2)
    assert ours["brier"] == pytest.approx(0.6 * 2 * 0.2**2 + 0.4 * 2 * 0.8**2)
    assert ours["nll"] == pytest.approx(-0.6 * np.log(0.8) - 0.4 * np.log(0.2))


def test_certain_and_right_is_perfect_certain_and_wrong_is_finite():
    labels = np.array([0, 1, 2, 0])
    best = values(np.eye(3)[labels], labels)
    assert best == {name: (1.0 if CLASSIFICATION[name].higher_is_better else 0.0) for name in best}
    worst = values(np.eye(3)[(labels + 1) % 3], labels)
    assert worst["ece"] == pytest.approx(1) and worst["brier"] == pytest.approx(2)
    assert worst["nll"] == pytest.approx(-np.log(np.finfo(float).eps))


def test_class_that_is_never_predicted_has_zero_f1_and_counts():
    labels = np.array([0, 0, 1, 1])
    scored = score(np.tile([0.9, 0.1], (4, 1)), labels, ["a", "b"], bootstrap=0, confidence=0.95, seed=0)
    assert scored["per_class"]["b"]["f1"]["value"] == scored["per_class"]["b"]["precision"]["value"] == 0
    assert scored["overall"]["f1_macro"]["value"] == pytest.approx((2 / 3 + 0) / 2)


def test_class_without_images_has_no_value_and_a_reason():
    probabilities, labels = predictions(60, 3, seed=2)
    labels = labels % 2  # class 2 is absent, yet predicted
    scored = score(probabilities, labels, ["a", "b", "c"], bootstrap=50, confidence=0.9, seed=0)
    absent = scored["per_class"]["c"]
    assert absent.pop("support") == 0
    assert all(estimate == {"value": None, "low": None, "high": None} for estimate in absent.values())
    assert "no image" in scored["protocol"]["undefined"]["per_class.c"]
    present = [scored["per_class"][name]["f1"]["value"] for name in "ab"]
    assert scored["overall"]["f1_macro"]["value"] == pytest.approx(np.mean(present))
    json.dumps(scored, allow_nan=False)


def test_one_class_only_has_no_auroc():
    probabilities, _ = predictions(20, 3, seed=2)
    scored = score(probabilities, np.zeros(20, dtype=int), list("abc"), bootstrap=20, confidence=0.95, seed=0)
    assert scored["overall"]["auroc_ovr"] == {"value": None, "low": None, "high": None}
    assert "one class" in scored["protocol"]["undefined"]["auroc"]
    assert scored["overall"]["accuracy"]["low"] is not None


def test_resamples_without_a_rare_class_are_counted_not_zeroed():
    probabilities, labels = predictions(40, 3, seed=4)
    labels = np.where(labels == 2, 0, labels)
    labels[0] = 2  # a single image of class c: about 37 % of the resamples miss it
    probabilities[0] = [0.1, 0.1, 0.8]
    scored = score(probabilities, labels, list("abc"), bootstrap=400, confidence=0.95, seed=0)
    assert 100 < scored["protocol"]["resamples_left_out"]["per_class.c.recall"] < 200
    assert scored["per_class"]["c"]["recall"] == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("metric", [*OVERALL, "loss"])
def test_point_equals_score(metric):
    probabilities, labels = predictions(80, 3, seed=9, digits=2)
    assert point(probabilities, labels, metric) == values(probabilities, labels)["nll" if metric == "loss" else metric]


def test_point_refuses_an_unknown_metric():
    with pytest.raises(RecipeError) as caught:
        point(np.eye(2), np.array([0, 1]), "f1_makro")
    assert "did you mean 'f1_macro'" in caught.value.hint


def test_every_metric_has_a_title_and_a_definition():
    assert set(OVERALL) == set(CLASSIFICATION)
    assert len(OVERALL) == 10


@pytest.mark.parametrize(
    ("probabilities", "labels", "said"),
    [
        (np.empty((0, 2)), np.empty(0), "no image"),
        (np.array([[2.0, -1.0]]), [0], "row 0 is not a probability distribution"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), [0, 1], "row 1 is not a probability distribution"),
        (np.array([[0.5, 0.2]]), [0], "sum 0.7"),
        (np.array([[0.5, 0.5]]), [2], "label 2 … 2, wanted 0 … 1"),
        (np.array([[0.5, 0.5]]), [0, 1], "do not fit"),
        (np.array([[0.5, 0.25, 0.25]]), [0], "do not fit"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities, labels, said):
    with pytest.raises(DataError) as caught:
        score(probabilities, labels, ["a", "b"], bootstrap=0, confidence=0.95, seed=0)
    assert said in caught.value.message
