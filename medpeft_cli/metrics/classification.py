"""Classification metrics from probabilities, weighted by image so that all bootstrap resamples are scored at once.

Dimensions: N images, K classes, B columns of weights (resamples). Every family below takes the weights as
float64 (N, B) and returns overall metrics of shape (B,) and per-class metrics of shape (K, B); NaN = undefined.
"""

from collections.abc import Callable, Sequence

import numpy as np

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.metrics.intervals import percentile_interval, resample_counts
from medpeft_cli.registry import unknown_hint

ECE_BINS = 15  # Guo et al. 2017, arXiv:1706.04599
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # as scikit-learn's log_loss; keeps the NLL finite

SUM_TOLERANCE = 1e-3  # of the probabilities of an image; float16 rounds by less

Values = dict[str, np.ndarray]


def score(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    bootstrap: int,
    confidence: float,
    seed: int,
    groups: Sequence[str] | None = None,
) -> dict:
    """Score predictions: every overall and per-class metric with its bootstrap interval, and the confusion matrix.

    The predicted class is the most probable one (the first of equals). Macro averages are over the classes that have
    images in the (re)sample. A class without images has no value (None), with the reason in `protocol.undefined`;
    a class that has images but is never predicted has precision and F1 of 0.

    The intervals are plain percentile intervals. Metrics that sampling noise biases (ECE above all, upwards) can have
    their value near, or in small splits outside, the lower end.

    Args:
        probabilities: float (N, K), each row summing to 1.
        labels: int (N,), true class, 0 … K − 1.
        classes: K names.
        bootstrap: B ≥ 0, resamples behind each interval; 0 = no intervals (None).
        confidence: coverage of each interval, 0–1.
        seed: of the resamples. Taken from the dataset and not from the run, it lets runs on one split be compared
            resample by resample.
        groups: one name an image; whole groups (patients) are resampled instead of images. None = images.

    Returns:
        JSON-ready `{"n", "protocol", "overall": {metric: {"value", "low", "high"}}, "per_class": {class: {"support",
        metric: …}}, "confusion"}`; rows of the confusion matrix are true classes, columns predicted ones.

    Raises:
        DataError: if there are no predictions, shapes disagree, or a row is not a probability distribution.
    """
    probabilities, labels = _checked(probabilities, labels, len(classes))
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if len(units) != len(labels):
        raise DataError(f"predictions: {len(units)} groups for {len(labels)} images")
    overall, per_class = _all_metrics(probabilities, labels, np.ones((len(labels), 1)))
    number = int(units.max()) + 1
    resamples = bootstrap if number > 1 else 0  # one unit has no spread to resample
    blocks = [_all_metrics(probabilities, labels, weights) for weights in resample_counts(units, resamples, seed)]
    protocol = {
        "bootstrap": resamples,
        "confidence": confidence,
        "interval": "percentile",
        "unit": "image" if groups is None else "group",
        "units": number,
        "stratified": False,
        "seed": seed,
        "macro": "mean over the classes with images",
        "zero_division": 0,
        "ece_bins": ECE_BINS,
        "brier": "summed over classes",
    }
    undefined: dict[str, str] = {}
    left_out: dict[str, int] = {}
    if bootstrap and not resamples:
        undefined["intervals"] = f"one {protocol['unit']}: nothing to resample"

    support = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, support, strict=True) if not count]
    undefined |= {f"per_class.{name}": "the split has no image of this class" for name in absent}
    if len(labels) in support:
        undefined["auroc"] = "the split has images of one class only"

    estimates = {
        name: _estimates(value[None], [block[0][name][None] for block in blocks], confidence, [name], left_out)[0]
        for name, value in overall.items()
    }
    class_estimates = {
        name: _estimates(
            value,
            [block[1][name] for block in blocks],
            confidence,
            [f"per_class.{c}.{name}" for c in classes],
            left_out,
        )
        for name, value in per_class.items()
    }
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return {
        "n": len(labels),
        "protocol": protocol | {"undefined": undefined, "resamples_left_out": left_out},
        "overall": estimates,
        "per_class": {
            name: {"support": int(support[k]), **{metric: rows[k] for metric, rows in class_estimates.items()}}
            for k, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def point(probabilities: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """Return one overall metric, without an interval; `loss` is the NLL. NaN where it is undefined.

    Args:
        probabilities: float (N, K), each row summing to 1.
        labels: int (N,), true class.
        metric: a name of `OVERALL`, or `loss`.

    Raises:
        RecipeError: if the metric is unknown.
        DataError: as `score`.
    """
    name = "nll" if metric == "loss" else metric
    if name not in OVERALL:
        raise RecipeError(f"unknown metric {metric!r}", unknown_hint(metric, [*OVERALL, "loss"]))
    probabilities, labels = _checked(probabilities, labels, np.shape(probabilities)[-1])
    return float(OVERALL[name](probabilities, labels, np.ones((len(labels), 1)))[0][name][0])


def decision_metrics(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[Values, Values]:
    """Return accuracy, recall, precision and F1 of the most probable class, as scikit-learn with `zero_division=0`.

    F1 = 2 tp / (support + predicted), Van Rijsbergen 1979. In single-label problems micro F1 equals accuracy.
    """
    every = np.arange(probabilities.shape[1])[:, None]
    truth, guess = labels == every, probabilities.argmax(axis=1) == every  # (K, N)
    support, predicted, hits = (mask.astype(np.float64) @ weights for mask in (truth, guess, truth & guess))  # (K, B)
    present = support > 0
    recall = _ratio(hits, support)
    precision = np.where(present, hits / np.maximum(predicted, 1), np.nan)
    f1 = np.where(present, _ratio(2 * hits, support + predicted), np.nan)
    total = weights.sum(axis=0)
    accuracy = hits.sum(axis=0) / total
    overall = {
        "accuracy": accuracy,
        "balanced_accuracy": _mean_defined(recall),
        "f1_macro": _mean_defined(f1),
        "f1_weighted": np.where(present, f1 * support, 0).sum(axis=0) / total,
        "f1_micro": accuracy,
    }
    return overall, {"precision": precision, "recall": recall, "f1": f1}


def ranking_metrics(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[Values, Values]:
    """Return AUROC and average precision of each class against the rest, ties handled exactly.

    AUROC is the Mann–Whitney statistic (Hanley & McNeil 1982), a tie counting one half; average precision is
    Σ (R_g − R_{g−1}) P_g over distinct thresholds, without interpolation. With two classes `auroc_ovr` is the
    ordinary AUROC of the second class.
    """
    number = probabilities.shape[1]
    auroc, average_precision = np.empty((2, number, weights.shape[1]))
    for k in range(number):
        order = np.argsort(-probabilities[:, k], kind="stable")
        starts = np.flatnonzero(np.diff(probabilities[order, k], prepend=np.inf))  # first image of each tied run
        sorted_weights = weights[order]  # (N, B)
        drawn = np.add.reduceat(sorted_weights, starts, axis=0)  # (G, B), images at each distinct score
        positive = np.add.reduceat(sorted_weights * (labels[order] == k)[:, None], starts, axis=0)
        above, positive_above = drawn.cumsum(axis=0), positive.cumsum(axis=0)  # at or above each score
        positives, images = positive_above[-1], above[-1]
        wins = ((drawn - positive) * (positive_above - positive / 2)).sum(axis=0)
        auroc[k] = _ratio(wins, positives * (images - positives))
        average_precision[k] = _ratio((positive * positive_above / np.maximum(above, 1)).sum(axis=0), positives)
    overall = {
        "auroc_ovr": auroc[1] if number == 2 else _mean_defined(auroc),
        "average_precision_macro": _mean_defined(average_precision),
    }
    return overall, {"auroc": auroc, "average_precision": average_precision}


def probability_metrics(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[Values, Values]:
    """Return ECE (Guo et al. 2017, eq. 3), Brier score (Brier 1950: summed over classes, 0–2) and NLL (nats).

    ECE: 15 bins (low, high] of equal width over the confidence of the predicted class, weighted by their images.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
    gaps = (bins == np.arange(ECE_BINS)[:, None]) * (right - confidence)  # (15, N)
    of_truth = probabilities[np.arange(len(labels)), labels]
    squared_error = (probabilities**2).sum(axis=1) - 2 * of_truth + 1
    total = weights.sum(axis=0)
    overall = {
        "ece": np.abs(gaps @ weights).sum(axis=0) / total,
        "brier": squared_error @ weights / total,
        "nll": -np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)) @ weights / total,
    }
    return overall, {}


Family = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Values, Values]]
OVERALL: dict[str, Family] = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "f1_micro"), decision_metrics),
    **dict.fromkeys(("auroc_ovr", "average_precision_macro"), ranking_metrics),
    **dict.fromkeys(("ece", "brier", "nll"), probability_metrics),
}


def _all_metrics(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[Values, Values]:
    overall: Values = {}
    per_class: Values = {}
    for family in dict.fromkeys(OVERALL.values()):
        whole, by_class = family(probabilities, labels, weights)
        overall |= whole
        per_class |= by_class
    return overall, per_class


def _estimates(
    values: np.ndarray, resampled: list[np.ndarray], confidence: float, names: list[str], left_out: dict[str, int]
) -> list[dict[str, float | None]]:
    """Join the values (M, 1) of M metrics with their intervals; note resamples in which a metric was undefined."""
    drawn = np.concatenate(resampled, axis=1) if resampled else np.empty((len(values), 0))  # (M, B)
    low, high = percentile_interval(drawn, confidence)
    estimates = []
    for i, name in enumerate(names):
        defined = not np.isnan(values[i, 0])
        if defined and (count := int(np.isnan(drawn[i]).sum())):
            left_out[name] = count
        triple = (values[i, 0], low[i], high[i]) if defined else (np.nan,) * 3
        estimates.append(
            {
                key: None if np.isnan(number) else float(number)
                for key, number in zip(("value", "low", "high"), triple, strict=True)
            }
        )
    return estimates


def _checked(probabilities: np.ndarray, labels: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (N, K) and int64 (N,), or say which row is wrong."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or probabilities.shape[1] != number:
        raise DataError(
            f"predictions: shapes {probabilities.shape} and {labels.shape} do not fit, wanted (N, {number}) and (N,)"
        )
    if not len(labels):
        raise DataError("predictions: no image to score", "the split is empty: check the dataset card's split")
    if number < 2:
        raise DataError(f"predictions: {number} class, wanted at least 2")
    if labels.min() < 0 or labels.max() >= number:
        raise DataError(f"predictions: label {labels.min()} … {labels.max()}, wanted 0 … {number - 1}")
    with np.errstate(invalid="ignore"):
        good = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"predictions: row {row} is not a probability distribution: sum {probabilities[row].sum():.6g}, wanted 1",
            "give softmax probabilities, not logits",
        )
    return probabilities, labels


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes (K, B) → (B,) of what is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))
