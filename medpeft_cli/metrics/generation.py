"""How far generated pictures are from real ones, from features of both: FID, KID, precision and recall, copies.

Dimensions: N real, M generated, F features. Everything is float64. Features of shards are concatenated before anything is
computed: the mean of shards' FIDs is not the FID.

Intervals come from a bootstrap over the features of both sets. A resample re-weights each picture by how often it was drawn,
and every metric answers to first order in these weights (the infinitesimal jackknife: Efron & Tibshirani 1993, ch. 21.4;
Giordano et al. 2019, arXiv:1806.00550), so that all resamples together cost one matrix product instead of an FID each. The
plain bootstrap would also be wrong here: FID's bias grows as 1/N, and a resample holds only 63 % of the pictures, so that its
FIDs lie far above the FID they are to describe.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError
from medpeft_cli.metrics.intervals import BLOCK_CELLS, percentile_interval, resample_counts

PRECISION_NEIGHBOURS = 3  # Kynkäänniemi et al. 2019, sec. 4
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020, sec. 4
FEWEST = DENSITY_NEIGHBOURS + 1  # pictures of each set
TIE = 1e-9  # distances that differ by less, relatively, are equal: rounding of the matrix product


class Measure(NamedTuple):
    """A metric and what each picture does to it.

    Attributes:
        value: of all pictures.
        real: float64 (N,), N · ∂value/∂weight of each real picture; the mean is 0.
        generated: float64 (M,), the same of each generated picture.
    """

    value: float
    real: np.ndarray
    generated: np.ndarray


def fid(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, eq. 6). 0 is best.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½, covariances with N − 1. It is biased upwards by about 1/N (Chong & Forsyth
    2020): only FIDs of equally many pictures can be compared.

    Args:
        real: float (N, F).
        generated: float (M, F).

    Raises:
        DataError: if a feature is not finite, the widths differ, or there are too few pictures.
    """
    return fid_measure(*checked(real, generated)).value


def kid(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the squared MMD of two sets of features under k(x, y) = (x·y / F + 1)³ (Bińkowski et al. 2018, eq. 4).

    The unbiased estimate from all pictures, which is what averages over random subsets (torch-fidelity's 100 of 1,000)
    approach, and equals theirs where the subset is the whole set. May be slightly negative.

    Args:
        real: float (N, F).
        generated: float (M, F).

    Raises:
        DataError: as `fid`.
    """
    return kid_measure(*checked(real, generated)).value


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = PRECISION_NEIGHBOURS
) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2), each 0–1.

    Precision: share of generated pictures inside the real manifold, the union of balls around the real pictures that reach
    to their k-th neighbour. Recall: share of real pictures inside the generated one. Balls are closed.

    Args:
        real: float (N, F).
        generated: float (M, F).
        neighbours: k.

    Raises:
        DataError: as `fid`.
    """
    measures = manifold_measures(*checked(real, generated, neighbours + 1), neighbours)
    return measures["improved_precision"].value, measures["improved_recall"].value


def density_coverage(
    real: np.ndarray, generated: np.ndarray, neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[float, float]:
    """Return density (0 or more, about 1 for equal sets) and coverage (0–1) (Naeem et al. 2020, arXiv:2002.09797, eq. 3, 4).

    Density: real balls that hold a generated picture, mean over generated pictures, divided by k. Coverage: share of real
    pictures whose ball holds a generated one. Balls are closed.

    Args:
        real: float (N, F).
        generated: float (M, F).
        neighbours: k.

    Raises:
        DataError: as `fid`.
    """
    measures = manifold_measures(*checked(real, generated, neighbours + 1), neighbours)
    return measures["density"].value, measures["coverage"].value


def feature_measures(real: np.ndarray, generated: np.ndarray) -> dict[str, Measure]:
    """Return every metric of two sets of features.

    Args:
        real: float (N, F).
        generated: float (M, F).

    Raises:
        DataError: as `fid`.
    """
    real, generated = checked(real, generated, FEWEST)
    precision = manifold_measures(real, generated, PRECISION_NEIGHBOURS)
    density = manifold_measures(real, generated, DENSITY_NEIGHBOURS)
    return {
        "fid": fid_measure(real, generated),
        "kid": kid_measure(real, generated),
        **{name: precision[name] for name in ("improved_precision", "improved_recall")},
        **{name: density[name] for name in ("density", "coverage")},
    }


def checked(real: np.ndarray, generated: np.ndarray, fewest: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as float64, or say what is wrong with them.

    Raises:
        DataError: if a feature is not finite, the widths differ, or a set has fewer than `fewest` pictures.
    """
    real, generated = np.asarray(real, dtype=np.float64), np.asarray(generated, dtype=np.float64)
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or features.shape[1] != real.shape[-1]:
            raise DataError(f"{name} features: shape {features.shape}, wanted (pictures, {real.shape[-1]})")
        if len(features) < fewest:
            raise DataError(
                f"{name} pictures: {len(features)}, the metrics need {fewest} at least",
                "hundreds make a usable estimate, and only equal numbers can be compared",
            )
        if not np.isfinite(features).all():
            row = int(np.argmin(np.isfinite(features).all(axis=1)))
            raise DataError(f"{name} features: row {row} is not finite", "check the encoder's weights")
    return real, generated


def fid_measure(real: np.ndarray, generated: np.ndarray) -> Measure:
    """Return FID with influences.

    tr (Σ₁Σ₂)^½ is the sum of the singular values of A₁A₂ᵀ, where the rows of A are centred features / √(N − 1): no matrix
    root, no eigenvalues of an asymmetric product, and min(N, F) rather than F on a side. Scaling picture i by its weight
    changes that sum by ½ (U S Uᵀ)ᵢᵢ.
    """
    centred = [features - features.mean(axis=0) for features in (real, generated)]
    scaled = [each / np.sqrt(len(each) - 1) for each in centred]
    # of many pictures only the triangular factor (F, F) of A = QR counts: Q has orthonormal columns
    factors = [np.linalg.qr(each) if len(each) > each.shape[1] else (None, each) for each in scaled]
    left, roots, right = np.linalg.svd(factors[0][1] @ factors[1][1].T, full_matrices=False)
    vectors = [each if q is None else q @ each for each, (q, _) in zip((left, right.T), factors, strict=True)]
    difference = real.mean(axis=0) - generated.mean(axis=0)
    spread = [(each**2).sum() for each in scaled]

    def influence(side: int, towards: np.ndarray) -> np.ndarray:
        number = len(centred[side])
        variance = number * (scaled[side] ** 2).sum(axis=1) - spread[side]
        overlap = number * (vectors[side] ** 2 @ roots) - roots.sum()
        return 2 * centred[side] @ towards + variance - overlap

    value = difference @ difference + sum(spread) - 2 * roots.sum()
    return Measure(max(float(value), 0.0), influence(0, difference), influence(1, -difference))


def kid_measure(real: np.ndarray, generated: np.ndarray) -> Measure:
    """Return KID with influences (Hoeffding's first projections of the U-statistic)."""
    within = [
        (_kernel_sums(each, each)[0] - _kernel(each, None).ravel()) / (len(each) - 1) for each in (real, generated)
    ]
    rows, columns = _kernel_sums(real, generated)
    across = [rows / len(generated), columns / len(real)]
    value = within[0].mean() + within[1].mean() - 2 * across[0].mean()
    influences = [2 * ((a - a.mean()) - (b - b.mean())) for a, b in zip(within, across, strict=True)]
    return Measure(float(value), *influences)


def manifold_measures(real: np.ndarray, generated: np.ndarray, neighbours: int) -> dict[str, Measure]:
    """Return improved precision and recall, density and coverage for one k; resampling holds the other set's balls fixed."""
    centre = real.mean(axis=0)  # less rounding
    real, generated = real - centre, generated - centre
    reach = [_squared_radii(each, neighbours) * (1 + TIE) for each in (real, generated)]
    balls = np.zeros(len(generated))  # real balls around each generated picture
    covered, recalled = np.zeros((2, len(real)), dtype=bool)
    for rows, distances in _squared_distances(real, generated):
        inside = distances <= reach[0][rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances <= reach[1]).any(axis=1)
    return {
        "improved_precision": mean_measure(len(real), generated=balls > 0),
        "improved_recall": mean_measure(len(generated), real=recalled),
        "density": mean_measure(len(real), generated=balls / neighbours),
        "coverage": mean_measure(len(generated), real=covered),
    }


def nearest(features: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distance of each picture to the nearest of another set, and which one that is.

    Args:
        features: float (M, F).
        among: float (T, F).

    Returns:
        float64 (M,) and int64 (M,), the first of equals.
    """
    centre = among.mean(axis=0, dtype=np.float64)
    found = [
        (np.sqrt(distances.min(axis=1)), distances.argmin(axis=1))
        for _, distances in _squared_distances(features - centre, among - centre)
    ]
    return np.concatenate([distance for distance, _ in found]), np.concatenate([index for _, index in found])


def nearest_measure(real_distances: np.ndarray, distances: np.ndarray) -> Measure:
    """Return how far generated pictures are from the training pictures, as a multiple of what real ones have.

    The mean distance to the nearest training picture, divided by the same of real pictures that were not trained on: 1 =
    as new as those, towards 0 = copies. After the authenticity of Alaa et al. 2022 (arXiv:2102.08921), but with its own
    scale, so that it costs no distances among training pictures.

    Args:
        real_distances: float (N,), of `nearest`.
        distances: float (M,), of `nearest`.

    Raises:
        DataError: if the real pictures are training pictures.
    """
    scale = real_distances.mean()
    if not scale:
        raise DataError("real pictures: each is also a training picture", "give test pictures as --real")
    ratio = distances.mean() / scale
    return Measure(float(ratio), ratio * (1 - real_distances / scale), distances / scale - ratio)


def mean_measure(others: int = 1, *, real: np.ndarray | None = None, generated: np.ndarray | None = None) -> Measure:
    """Return the mean over pictures of one set as a Measure.

    Args:
        others: pictures of the other set.
        real: (N,), one number each; or
        generated: (M,), one number each.
    """
    values = np.asarray(generated if real is None else real, dtype=np.float64)
    sides = [values - values.mean(), np.zeros(others)]
    return Measure(float(values.mean()), *(sides[::-1] if real is None else sides))


def estimates(
    measures: Mapping[str, Measure], *, bootstrap: int, confidence: float, seed: int
) -> dict[str, dict[str, float | None]]:
    """Return each metric with its percentile interval; all metrics see the same resamples.

    Args:
        measures: metrics of the same N real and M generated pictures.
        bootstrap: resamples; 0 = no intervals (None).
        confidence: coverage of each interval, 0–1.
        seed: of the resamples.

    Returns:
        {metric: {"value", "low", "high"}}.
    """
    sides = [np.stack([getattr(each, side) for each in measures.values()]) for side in ("real", "generated")]
    values = np.array([each.value for each in measures.values()])
    block = max(1, BLOCK_CELLS // max(side.shape[1] for side in sides))
    shifts = np.zeros((len(values), bootstrap))
    for name, side in zip(("real", "generated"), sides, strict=True):
        number, start = side.shape[1], 0
        for counts in resample_counts(np.arange(number), bootstrap, seed_of(seed, name), block):
            shifts[:, start : start + counts.shape[1]] += side @ counts / number
            start += counts.shape[1]
    low, high = percentile_interval(values[:, None] + shifts, confidence)
    found = {}
    for name, triple in zip(measures, zip(values, low, high, strict=True), strict=True):
        numbers = [None if np.isnan(number) else float(number) for number in triple]
        if name == "fid" and bootstrap:
            numbers[1:] = [max(number, 0.0) for number in numbers[1:] if number is not None]
        found[name] = dict(zip(("value", "low", "high"), numbers, strict=True))
    return found


def _kernel(left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """(x·y / F + 1)³ of all pairs (n, m), or of each row with itself (n, 1)."""
    products = (left**2).sum(axis=1, keepdims=True) if right is None else left @ right.T
    return (products / left.shape[1] + 1) ** 3


def _kernel_sums(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.empty(len(left)), np.zeros(len(right))
    for part in _parts(len(left), len(right)):
        block = _kernel(left[part], right)
        rows[part] = block.sum(axis=1)
        columns += block.sum(axis=0)
    return rows, columns


def _squared_distances(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of `left` and their squared distances to all of `right`; what rounding leaves of 0 is 0."""
    left, right = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    squares = (right**2).sum(axis=1)
    for part in _parts(len(left), len(right)):
        lengths = (left[part] ** 2).sum(axis=1)[:, None] + squares
        distances = lengths - 2 * (left[part] @ right.T)
        distances[distances < 1e-12 * lengths] = 0
        yield part, distances


def _squared_radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each picture to its k-th neighbour; the 0-th is itself."""
    parts = [
        np.partition(distances, neighbours, axis=1)[:, neighbours]
        for _, distances in _squared_distances(features, features)
    ]
    return np.concatenate(parts)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, 4 * BLOCK_CELLS // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
