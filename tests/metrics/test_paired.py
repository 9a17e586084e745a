"""Paired tests against independent implementations, and on data where the answer is known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from medpeft_cli.metrics.paired import delong, holm, mcnemar, paired_bootstrap, resampled


def predictions(rng, n=120, k=2, shift=0.0):
    """Probabilities that know the label a little; a larger shift knows more."""
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + (1 + shift) * (labels[:, None] == np.arange(k))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def another(rng, labels, k, shift):
    logits = rng.normal(size=(len(labels), k)) + (1 + shift) * (labels[:, None] == np.arange(k))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def slow_delong(first, second, labels):
    """DeLong et al. 1988 as it is written: all pairs of a positive and a negative, covariances of the placements."""
    positive, negative = labels == 1, labels == 0
    v10, v01, areas = [], [], []
    for scores in (first, second):
        wins = (scores[positive][:, None] > scores[negative]) + 0.5 * (scores[positive][:, None] == scores[negative])
        v10.append(wins.mean(axis=1))
        v01.append(wins.mean(axis=0))
        areas.append(wins.mean())
    covariance = np.cov(v10) / positive.sum() + np.cov(v01) / negative.sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return areas[1] - areas[0], 2 * stats.norm.sf(abs(areas[1] - areas[0]) / np.sqrt(variance))


@pytest.mark.parametrize("digits", [8, 1])  # one digit: many ties
def test_delong_equals_its_definition(digits):
    rng = np.random.default_rng(0)
    first, labels = predictions(rng)
    first, second = (np.round(each, digits) for each in (first, another(rng, labels, 2, 0.5)))
    value, p = delong(first, second, labels, np.arange(len(labels)))
    assert (value, p) == pytest.approx(slow_delong(first[:, 1], second[:, 1], labels))
    assert value == pytest.approx(roc_auc_score(labels, second[:, 1]) - roc_auc_score(labels, first[:, 1]))


def test_delong_of_several_classes_is_the_macro_auroc_with_a_calibrated_p():
    rng = np.random.default_rng(1)
    first, labels = predictions(rng, k=4)
    second = another(rng, labels, 4, 0.5)
    value, _ = delong(first, second, labels, np.arange(len(labels)))
    expected = [roc_auc_score(labels, each, multi_class="ovr") for each in (first, second)]
    assert value == pytest.approx(expected[1] - expected[0])
    null = []
    for _ in range(400):
        first, labels = predictions(rng, n=90, k=3)
        null.append(delong(first, another(rng, labels, 3, 0), labels, np.arange(90))[1])
    assert 0.02 < np.mean(np.array(null) < 0.05) < 0.09


def test_units_widen_what_repeats_itself():
    """Each image four times over: as single images the p is far too small, as units it is that of the images themselves."""
    rng = np.random.default_rng(2)
    first, labels = predictions(rng)
    second = another(rng, labels, 2, 0.3)
    fourfold = [np.repeat(each, 4, axis=0) for each in (first, second, labels)]
    units = np.repeat(np.arange(len(labels)), 4)
    once, many = delong(first, second, labels, np.arange(len(labels)))[1], delong(*fourfold, units)[1]
    assert many == pytest.approx(once, rel=0.1) and delong(*fourfold, np.arange(480))[1] < once / 2
    right = [each.argmax(axis=1) == fourfold[2] for each in fourfold[:2]]
    single = mcnemar(right[0][::4], right[1][::4], np.arange(len(labels)))
    assert mcnemar(*right, units) == pytest.approx(single, abs=0.06) and mcnemar(*right, np.arange(480)) < single / 2


@pytest.mark.parametrize(("only_first", "only_second"), [(3, 12), (7, 7), (0, 6), (30, 50)])
def test_mcnemar_equals_statsmodels(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True] * 20)
    second = np.array([False] * only_first + [True] * only_second + [True] * 20)
    table = [[20, only_first], [only_second, 0]]
    assert mcnemar(first, second, np.arange(len(first))) == pytest.approx(reference_mcnemar(table).pvalue)


def test_equal_runs_do_not_differ():
    rng = np.random.default_rng(3)
    first, labels = predictions(rng)
    units = np.arange(len(labels))
    right = first.argmax(axis=1) == labels
    drawn = resampled("f1_macro", first, labels, units, 200, 0)
    assert mcnemar(right, right, units) == 1 and delong(first, first, labels, units) == (0, 1)
    assert paired_bootstrap(drawn, drawn) == (0, 0, 0, 1)


def test_a_bootstrap_without_a_defined_resample_has_no_p():
    found = paired_bootstrap(np.array([0.5, np.nan, np.nan]), np.array([0.7, np.nan, 0.3]))
    assert found.value == pytest.approx(0.2) and np.isnan(found[1:]).all()


def test_the_bootstrap_is_paired_and_its_p_is_calibrated():
    rng = np.random.default_rng(4)
    first, labels = predictions(rng, n=300)
    units = np.arange(300)
    drawn = [resampled("accuracy", each, labels, units, 500, 7) for each in (first, another(rng, labels, 2, 3))]
    found = paired_bootstrap(*drawn)
    accuracies = [(each.argmax(axis=1) == labels).mean() for each in (first,)]
    assert drawn[0][0] == pytest.approx(accuracies[0]) and found.value > 0.1
    assert found.low < found.value < found.high and found.p == pytest.approx(2 / 501)
    assert paired_bootstrap(*reversed(drawn)).value == -found.value
    null = []
    for _ in range(200):
        first, labels = predictions(rng, n=100)
        both = [resampled("accuracy", p, labels, np.arange(100), 199, 0) for p in (first, another(rng, labels, 2, 0))]
        null.append(paired_bootstrap(*both).p)
    assert 0.01 < np.mean(np.array(null) < 0.05) < 0.12


def test_holm_equals_statsmodels_and_leaves_nan_out():
    values = [0.01, 0.04, 0.03, 0.2, 0.01]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([0.01, float("nan"), 0.04])[::2] == pytest.approx([0.02, 0.04])
