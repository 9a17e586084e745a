"""Percentile bootstrap over test images, or over the groups (patients) they belong to.

A resample is a column of counts, how often each image was drawn, so that every metric is a weighted one and is
computed for many resamples at once. The counts depend on the seed and the units only. The seed is derived from the
dataset's hash, not from the run's seed: all runs scored on one test split meet the same resamples, and the difference of
two may be paired resample by resample.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_CELLS = 1_000_000  # images × resamples held at once: 8 MB a temporary


def resample_counts(units: np.ndarray, resamples: int, seed: int, block: int | None = None) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples of whole units with replacement (Efron & Tibshirani 1993, ch. 6), block by block.

    The draw is not stratified by class: the class balance of the test split is itself a sample.

    Args:
        units: int (N,), unit of each image, 0 … U − 1; `np.arange(N)` resamples images.
        resamples: B, number of resamples.
        seed: of the draw.
        block: resamples at a time, which does not change them; None = as many as BLOCK_CELLS allows.

    Yields:
        float64 (N, b), how often each image is in each of the next b resamples; b sums to B.
    """
    rng = np.random.default_rng(seed)
    number = int(units.max()) + 1
    block = block or max(1, BLOCK_CELLS // len(units))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, number, size=(size, number)) + number * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number)
        yield np.ascontiguousarray(counts.T[units], dtype=np.float64)  # (N, b)


def percentile_interval(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval (Efron & Tibshirani 1993, eq. 13.3) of each row of resampled values.

    Resamples in which a value is undefined (NaN) are left out; a row without any gives NaN.

    Args:
        values: float (M, B), B resampled values of each of M metrics.
        confidence: coverage, 0–1.

    Returns:
        low and high, each float (M,).
    """
    tail = (1 - confidence) / 2
    bounds = np.full((2, len(values)), np.nan)
    for i, row in enumerate(values):
        defined = row[~np.isnan(row)]
        if len(defined):
            bounds[:, i] = np.quantile(defined, [tail, 1 - tail])
    return bounds[0], bounds[1]
