"""FID, KID, precision and recall, density and coverage against references, definitions and closed forms."""

import numpy as np
import pytest

from medpeft_cli.errors import DataError
from medpeft_cli.metrics import generation
from medpeft_cli.metrics.generation import density_coverage, fid, kid, nearest, precision_recall


def features(real, generated, width):
    rng = np.random.default_rng(7)
    return rng.random((real, width)), rng.random((generated, width)) ** 1.3 + 0.05


# (N, M, F, FID of N and M, KID of the first min(N, M) of each), printed by torch-fidelity 0.4.0 from the same features:
# fid_statistics_to_metric, and kid_features_to_metric with kid_subset_size = min(N, M)
TORCH_FIDELITY = [
    (60, 80, 12, 0.1444911359546277, 0.0006523990069227104),
    (40, 50, 64, 4.285210063730897, 0.0008031116054979156),
    (300, 300, 32, 0.17475234721654687, 0.0013164173039090048),
]


@pytest.mark.parametrize(("real", "generated", "width", "fid_value", "kid_value"), TORCH_FIDELITY)
def test_fid_and_kid_equal_torch_fidelity(real, generated, width, fid_value, kid_value):
    x, y = features(real, generated, width)
    fewest = min(real, generated)
    assert fid(x, y) == pytest.approx(fid_value, rel=1e-6)
    assert kid(x[:fewest], y[:fewest]) == pytest.approx(kid_value, rel=1e-9)


def test_fid_equals_torchmetrics_where_there_are_fewer_images_than_features():
    import torch

    from medpeft_cli import compat  # noqa: F401

    # isort: split
    from torchmetrics.image.fid import _compute_fid

    x, y = features(30, 20, 50)
    moments = [torch.tensor(each) for z in (x, y) for each in (z.mean(0), np.cov(z, rowvar=False))]
    assert fid(x, y) == pytest.approx(float(_compute_fid(*moments)), rel=1e-4)


def test_fid_of_two_gaussians_is_the_closed_form():
    """Samples with exactly these moments: ‖Δμ‖² + Σ (σ₁ − σ₂)² for axis-aligned Gaussians."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(np.c_[np.ones(50), rng.normal(size=(50, 4))])
    white = q[:, 1:] * np.sqrt(49)  # mean 0, covariance 1
    s1, s2, shift = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 2.0, 1.0, 0.1]), np.array([1.0, 0, -2.0, 0])
    assert fid(white * s1, white * s2 + shift) == pytest.approx(5 + 1 + 0 + 4 + 0.16, rel=1e-9)
    assert fid(white, white) == pytest.approx(0, abs=1e-9)


def test_joining_features_is_not_averaging_fids():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 64)), rng.normal(size=(400, 64))
    assert np.mean([fid(x[part::4], y[part::4]) for part in range(4)]) > 3 * fid(x, y)


def test_kid_is_unbiased_and_written_out():
    x, y = features(7, 9, 3)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    same = [
        sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / len(z) / (len(z) - 1) for z in (x, y)
    ]
    cross = sum(k(a, b) for a in x for b in y) / 63
    assert kid(x, y) == pytest.approx(sum(same) - 2 * cross, rel=1e-12)


# a line: real pictures at 0, 1, 2, 10; generated ones at 0.5, 2.5, 30, 31
REAL, GENERATED = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [2.5], [30], [31]])


def test_precision_and_recall_are_the_definition():
    # k = 1, balls of real: 0 ± 1, 1 ± 1, 2 ± 1, 10 ± 8; of generated: 0.5 ± 2, 2.5 ± 2, 30 ± 1, 31 ± 1
    assert precision_recall(REAL, GENERATED, 1) == (2 / 4, 3 / 4)


def test_density_and_coverage_are_the_definition():
    # 0.5 lies in two balls (0, 1), 2.5 in two (2, 10), 30 and 31 in none; the balls of all four real pictures hold one
    assert density_coverage(REAL, GENERATED, 1) == ((2 + 2) / 4, 4 / 4)
    # k = 2, balls of real: 0 ± 2, 1 ± 1, 2 ± 2, 10 ± 9; 0.5 lies in 3, 2.5 in 2 (2, 10)
    assert density_coverage(REAL, GENERATED, 2) == ((3 + 2) / 4 / 2, 4 / 4)


def test_balls_are_closed_and_copies_are_found():
    # 2 lies on the edge of the ball 1 ± 1; with an open ball neither it nor a copy of a doubled picture would count
    assert precision_recall(np.array([[0.0], [1], [50]]), np.array([[2.0], [99], [-40]]), 1)[0] == pytest.approx(2 / 3)
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=(6, 40)) + 100, 2, axis=0)
    assert precision_recall(x, x, 1) == (1, 1)
    assert density_coverage(x, x, 1) == (2, 1)


def test_blocks_do_not_change_the_numbers(monkeypatch):
    x, y = features(40, 30, 8)
    whole = generation.feature_measures(x, y)
    monkeypatch.setattr(generation, "BLOCK_CELLS", 50)
    for name, measure in generation.feature_measures(x, y).items():
        assert measure.value == pytest.approx(whole[name].value, rel=1e-12)


@pytest.mark.parametrize("shape", [(30, 20, 6), (12, 15, 40)])
@pytest.mark.parametrize(("name", "function"), [("fid", fid), ("kid", kid)])
def test_influences_are_the_derivatives_in_the_weights(name, function, shape):
    """Weights that are whole numbers are repeated pictures: many copies of a set and one more of a picture."""
    x, y = features(*shape)
    measure = generation.feature_measures(x, y)[name]
    assert measure.real.mean() == pytest.approx(0, abs=1e-9)
    assert measure.generated.mean() == pytest.approx(0, abs=1e-9)
    for index in (0, 5):
        if name == "fid":
            copies = (
                2000  # the estimate's own N − 1 no longer matters: covariances of weighted sets, divided by the weight
            )
            weights = np.ones(len(x))
            weights[index] += 1 / copies
            moved = weighted_fid(x, y, weights)
            slope = (moved - weighted_fid(x, y, np.ones(len(x)))) * copies * len(x)
            assert measure.real[index] == pytest.approx(slope, rel=2e-3, abs=1e-3)
        else:
            step = 1e-6
            slope = (weighted_kid(x, y, index, step) - weighted_kid(x, y, index, 0)) / step * len(y)
            assert measure.generated[index] == pytest.approx(slope, rel=1e-4)


def weighted_fid(x, y, weights):
    """FID with re-weighted real pictures, by eigenvalues; covariances keep their factor N / (N − 1)."""
    share = weights / weights.sum()
    mean = share @ x
    sigma1 = ((x - mean) * share[:, None]).T @ (x - mean) * len(x) / (len(x) - 1)
    sigma2 = np.cov(y, rowvar=False)
    root = np.sqrt(np.abs(np.linalg.eigvals(sigma1 @ sigma2).real)).sum()
    return ((mean - y.mean(0)) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root


def weighted_kid(x, y, index, step):
    """KID with one generated picture re-weighted; means over distinct pairs."""
    weights = np.ones(len(y))
    weights[index] += step
    k = {name: (a @ b.T / x.shape[1] + 1) ** 3 for name, (a, b) in {"xx": (x, x), "yy": (y, y), "xy": (x, y)}.items()}
    off = [each - np.diag(np.diag(each)) for each in (k["xx"], k["yy"])]
    pairs = np.outer(weights, weights) * (1 - np.eye(len(y)))
    across = (k["xy"] @ weights).sum() / len(x) / weights.sum()
    return off[0].sum() / len(x) / (len(x) - 1) + (off[1] * pairs).sum() / pairs.sum() - 2 * across


def test_intervals_have_the_width_of_fresh_samples():
    """The interval's half-width over 1.96 is the standard deviation of FIDs of independent samples, within a third."""
    rng = np.random.default_rng(5)

    def draw():
        return rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) * 1.5 + 0.3

    fids = np.std([fid(*draw()) for _ in range(100)])
    found = generation.estimates(generation.feature_measures(*draw()), bootstrap=400, confidence=0.95, seed=0)["fid"]
    assert found["low"] < found["value"] < found["high"]
    assert (found["high"] - found["low"]) / 2 / 1.96 == pytest.approx(fids, rel=1 / 3)


def test_intervals_do_not_depend_on_blocks_and_are_left_out_at_will(monkeypatch):
    measures = generation.feature_measures(*features(40, 30, 8))
    chosen = {"bootstrap": 60, "confidence": 0.9, "seed": 3}
    whole = generation.estimates(measures, **chosen)
    monkeypatch.setattr(generation, "BLOCK_CELLS", 200)
    assert generation.estimates(measures, **chosen)["kid"] == pytest.approx(whole["kid"])
    none = generation.estimates(measures, **chosen | {"bootstrap": 0})
    assert none["fid"] == {"value": whole["fid"]["value"], "low": None, "high": None}


def test_nearest_finds_the_copy_and_scales_by_real_pictures():
    distance, which = nearest(np.array([[3.0, 4], [10, 0]]), np.array([[0.0, 0], [10, 0], [10, 1]]))
    assert distance == pytest.approx([5, 0])
    assert which.tolist() == [0, 1]
    measure = generation.nearest_measure(np.array([2.0, 6]), distance)
    assert measure.value == pytest.approx(5 / 8)
    assert (measure.real.mean(), measure.generated.mean()) == pytest.approx((0, 0))
    with pytest.raises(DataError, match="is also a training picture"):
        generation.nearest_measure(np.zeros(2), distance)


@pytest.mark.parametrize(
    ("real", "generated", "said"),
    [
        (np.zeros((1, 3)), np.zeros((9, 3)), "real pictures: 1, the metrics need 2 at least"),
        (np.zeros((9, 3)), np.zeros((9, 4)), r"generated features: shape \(9, 4\), wanted \(pictures, 3\)"),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), "generated features: row 0 is not finite"),
    ],
)
def test_bad_features_are_refused(real, generated, said):
    for metric in (fid, kid):
        with pytest.raises(DataError, match=said):
            metric(real, generated)


def test_too_few_neighbours_are_refused():
    with pytest.raises(DataError, match="4, the metrics need 6"):
        density_coverage(REAL, GENERATED)
