import numpy as np
import pytest
from PIL import Image

from medpeft_cli.data import duplicates
from medpeft_cli.data.duplicates import candidates, detail, detail_correlation, near_pairs, perceptual_hashes


def blobs(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = [Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)) for n in (5, 9, 17, 33)]
    return np.mean([np.asarray(layer.resize((width, height)), dtype=float) for layer in small], axis=0).astype(np.uint8)


def thumbnail(pixels):
    return duplicates.thumbnail(Image.fromarray(pixels))


def pairs_of(pictures):
    thumbs = np.stack([thumbnail(picture) for picture in pictures])
    return near_pairs(perceptual_hashes(thumbs), lambda chosen: thumbs[chosen])


def jpeg(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=50)
    return np.asarray(Image.open(tmp_path / "x.jpg"))


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: np.asarray(Image.fromarray(pixels).resize((150, 110), Image.Resampling.BICUBIC)),
        lambda pixels: (pixels * 0.6 + 50).astype(np.uint8),
        lambda pixels: np.repeat(pixels[:, :, None], 3, axis=2),
        lambda pixels: pixels[2:-2, 2:-2],
    ],
    ids=["resized", "less contrast", "as RGB", "cropped by two pixels"],
)
def test_changed_copies_are_near_duplicates(change):
    pairs, correlations = pairs_of([blobs(0), blobs(1), change(blobs(0))])
    assert pairs.tolist() == [[0, 2]] and correlations[0] > duplicates.CORRELATION


def test_a_compressed_copy_is_a_near_duplicate(tmp_path):
    assert pairs_of([blobs(0), blobs(1), jpeg(blobs(1), tmp_path)])[0].tolist() == [[1, 2]]


def test_the_same_layout_with_other_detail_is_no_near_duplicate():
    """Two eyes in the same round field of view agree in all that is large."""
    y, x = np.mgrid[0:256, 0:256]
    view = (x - 128) ** 2 + (y - 128) ** 2 < 120**2
    disc = 80 * np.exp(-((x - 190) ** 2 + (y - 120) ** 2) / 400)
    eyes = [np.where(view, 90 + disc + (blobs(seed, 256, 256) - 128.0) * 0.3, 0).astype(np.uint8) for seed in range(6)]
    thumbs = np.stack([thumbnail(eye) for eye in eyes])
    flat = thumbs.reshape(6, -1).astype(float)
    assert np.corrcoef(flat).min() > 0.95
    assert len(pairs_of(eyes)[0]) == 0


def test_blank_pictures_are_near_duplicates_of_nothing():
    assert len(pairs_of([np.full((64, 64), value, np.uint8) for value in (0, 0, 9, 255)])[0]) == 0


@pytest.mark.parametrize("clustered", [False, True])
def test_candidates_are_all_pairs_within_six_bits_each_once(clustered, monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, 3 if clustered else 200, dtype=np.uint64)
    flips = [
        np.bitwise_or.reduce(np.uint64(1) << rng.choice(63, int(rng.integers(0, 5)), replace=False).astype(np.uint64))
        for _ in range(400)
    ]
    hashes = rng.choice(base, 400) ^ np.array(flips, dtype=np.uint64)
    monkeypatch.setattr(duplicates, "WIDEST", 1000)  # buckets are cut
    found = [tuple(pair) for block in candidates(hashes) for pair in block.tolist()]
    wanted = {
        (i, i + 1 + j) for i in range(400) for j in np.flatnonzero(np.bitwise_count(hashes[i] ^ hashes[i + 1 :]) <= 6)
    }
    assert len(found) == len(set(found)) and set(found) == wanted


def test_hashes_have_63_bits_of_which_31_are_set_and_survive_a_change_of_scale():
    thumbs = np.stack([thumbnail(blobs(seed)) for seed in range(5)])
    hashes = perceptual_hashes(thumbs)
    assert set(np.bitwise_count(hashes).tolist()) == {31} and (hashes >> np.uint64(63)).sum() == 0
    assert np.array_equal(perceptual_hashes(thumbs // 2 * 2), perceptual_hashes(thumbs // 2))


def test_detail_is_the_deviation_from_the_neighbours_in_their_standard_deviations():
    thumb = thumbnail(blobs(3))[None]
    values = np.pad(thumb[0].astype(float), 2, mode="edge")
    high = np.array(
        [[values[r + 2, c + 2] - values[r : r + 5, c : c + 5].mean() for c in range(32)] for r in range(32)]
    )
    padded = np.pad(high**2, 2, mode="edge")
    spread = np.sqrt([[padded[r : r + 5, c : c + 5].mean() for c in range(32)] for r in range(32)])
    wanted = np.clip(np.rint(32 * high / (spread + 2)), -127, 127)
    assert np.abs(detail(thumb)[0] - wanted).max() <= 1  # float32 beside float64 at the rounding edge


def test_one_fifth_of_the_tiles_may_differ_and_no_more():
    one = detail(thumbnail(blobs(4))[None])
    other = one.copy()
    other[:, :8, :24] *= -1  # 3 of 16 tiles
    assert detail_correlation(one, other)[0] == pytest.approx(1)
    other[:, :8] = -one[:, :8]  # 4 of 16
    assert detail_correlation(one, other)[0] == pytest.approx(-1)
