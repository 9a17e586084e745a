"""Is one of two runs better? Paired tests on the predictions of both for the same test images.

Dimensions: N images, K classes, B resamples. `units` is int (N,): the patient or lesion of each image, 0 … U − 1; images of
one unit are not independent, and every test here takes whole units as its sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from medpeft_cli.metrics.classification import OVERALL
from medpeft_cli.metrics.intervals import percentile_interval, resample_counts


class Difference(NamedTuple):
    """A difference with its percentile interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def resampled(
    metric: str, probabilities: np.ndarray, labels: np.ndarray, units: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Return a metric of all images, then of B resamples of units: runs with equal units and seed meet the same resamples.

    Args:
        metric: a name of `classification.OVERALL`.
        probabilities: float64 (N, K).
        labels: int (N,).
        units: int (N,).
        resamples: B.
        seed: of the draw.

    Returns:
        float64 (1 + B,); NaN where the metric is undefined.
    """
    family = OVERALL[metric]
    weights = [np.ones((len(labels), 1)), *resample_counts(units, resamples, seed)]
    return np.concatenate([family(probabilities, labels, each)[0][metric] for each in weights])


def paired_bootstrap(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> Difference:
    """Compare two runs, or two means over seeds, resample by resample (Efron & Tibshirani 1993, ch. 16).

    p is twice the smaller share of resamples on either side of 0, the observed sample counted with them (Davison & Hinkley 1997,
    eq. 4.11), so that it is never 0.

    Args:
        first, second: float64 (1 + B,) of `resampled`.
        confidence: of the interval, 0–1.

    Returns:
        interval and p of NaN where no resample has both values.
    """
    drawn = second[1:] - first[1:]
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Difference(float(second[0] - first[0]), *[float("nan")] * 3)
    low, high = percentile_interval(drawn[None], confidence)
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(
        float(second[0] - first[0]), float(low[0]), float(high[0]), min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    )


def mcnemar(first: np.ndarray, second: np.ndarray, units: np.ndarray) -> float:
    """Return the two-sided p that two classifiers are right equally often (McNemar 1947).

    Exact where each image is a unit of its own: a binomial test on the images that one alone has right. Else the statistic for
    clustered pairs of Obuchowski 1998 (Statistics in Medicine 17:1495), normal for many units.

    Args:
        first, second: bool (N,), whether each image was classified rightly.
        units: int (N,).
    """
    apart = second.astype(np.int64) - first.astype(np.int64)
    if not apart.any():
        return 1.0
    if len(np.unique(units)) == len(units):
        wins = int((apart > 0).sum())
        return float(stats.binomtest(wins, int((apart != 0).sum())).pvalue)
    sums, sizes = np.bincount(units, apart), np.bincount(units)  # (U,)
    number = len(sums)
    variance = number / max(number - 1, 1) * ((sums - sizes * apart.mean()) ** 2).sum()
    return _two_sided(float(sums.sum()), float(variance))


def delong(first: np.ndarray, second: np.ndarray, labels: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Return the difference of two AUROCs (second − first) and its two-sided p (DeLong et al. 1988, Biometrics 44:837).

    With two classes the AUROC of the second; with more the mean over classes of each against the rest, whose placements are
    averaged likewise. Images of one unit are summed before they are squared, as Obuchowski 1997 (Biometrics 53:567) has it.

    Args:
        first, second: float64 (N, K), probabilities.
        labels: int (N,).
        units: int (N,).

    Returns:
        (nan, nan) where no class has images of it and of others.
    """
    classes = [k for k in range(first.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    if not classes:
        return float("nan"), float("nan")
    classes = [1] if first.shape[1] == 2 else classes
    value = 0.0
    influence = np.zeros(len(labels))
    for k in classes:
        positive = labels == k
        areas, placements = zip(*(_placements(scores[:, k], positive) for scores in (first, second)), strict=True)
        value += (areas[1] - areas[0]) / len(classes)
        influence += (placements[1] - placements[0]) / len(classes)
    return value, _two_sided(value, float((np.bincount(units, influence) ** 2).sum()))


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return an AUROC and what each image adds to its error: centred placement values over the size of its side."""
    m, n = int(positive.sum()), int((~positive).sum())
    everywhere = stats.rankdata(scores)  # ties: mean of places
    inside = np.empty(len(scores))
    inside[positive], inside[~positive] = stats.rankdata(scores[positive]), stats.rankdata(scores[~positive])
    others = everywhere - inside  # images of the other side below it, ties one half
    placement = np.where(positive, others / n, 1 - others / m)
    area = float(placement[positive].mean())
    small = np.where(positive, np.sqrt(m / max(m - 1, 1)) / m, np.sqrt(n / max(n - 1, 1)) / n)  # n − 1 in each variance
    return area, (placement - area) * small


def _two_sided(value: float, variance: float) -> float:
    """Return the two-sided p of a normal value; 1 for a difference of 0, NaN where nothing varies."""
    if value == 0:
        return 1.0
    return float(2 * stats.norm.sf(abs(value) / np.sqrt(variance))) if variance > 0 else float("nan")


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number (Holm 1979), in their order; NaN stays and is not counted."""
    adjusted = [float("nan")] * len(values)
    known = sorted((p, i) for i, p in enumerate(values) if not np.isnan(p))
    highest = 0.0
    for place, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        adjusted[i] = highest
    return adjusted
