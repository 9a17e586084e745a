"""Find pictures that are nearly the same: a 63-bit perceptual hash names candidates, their pixels confirm.

All arithmetic that decides is on whole numbers or rounds as IEEE 754 says, so that every machine finds the same pairs.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

SIDE = 32  # of the thumbnail, pixels
DISTANCE = 6  # bits by which two hashes may differ
BANDS = DISTANCE + 1  # hashes that differ in at most DISTANCE bits agree in one band at least
BAND_BITS = 63 // BANDS
TILE = 8  # pixels
CORRELATION = 0.8  # of the detail, in four fifths of the tiles that have any
LEAST_TILES = 4  # with detail; a nearly blank picture is a near-duplicate of nothing
BLOCK = 2048  # pairs confirmed at once: bounds the memory
WIDEST = 1 << 22  # hash pairs compared at once

Thumbs = Callable[[np.ndarray], np.ndarray]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return a picture in grey at 32 × 32 pixels, each the mean of its box, uint8 (32, 32); the aspect is not kept."""
    factor = min(image.size) // (2 * SIDE)
    whole = image.reduce(factor) if factor > 1 else image  # means of whole boxes: most of it, and fast
    return np.asarray(whole.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def perceptual_hashes(thumbs: np.ndarray) -> np.ndarray:
    """Return 63 bits of each thumbnail: which of its 8 × 8 lowest cosine coefficients, the mean left out, exceed their median.

    The hash of Zauner 2010, Implementation and benchmarking of perceptual image hash functions, §3.2.1, with whole-number
    cosines.

    Shape:
        thumbs: uint8 (N, 32, 32) → uint64 (N,).
    """
    angle = np.pi * np.outer(np.arange(8), 2 * np.arange(SIDE) + 1) / (2 * SIDE)
    cosines = np.rint(1024 * np.cos(angle))  # whole numbers: products and sums below 2⁵³ are exact in any order
    low = (cosines @ thumbs.astype(np.float64) @ cosines.T).reshape(len(thumbs), 64)[:, 1:]  # (N, 63)
    bits = low > np.sort(low, axis=1)[:, 31:32]
    return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(63, dtype=np.uint64))


def near_pairs(hashes: np.ndarray, thumbs: Thumbs) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of near-duplicates.

    Args:
        hashes: uint64 (N,), of `perceptual_hashes`.
        thumbs: returns the thumbnails of ascending indices, uint8 (M, 32, 32).

    Returns:
        pairs int64 (P, 2) with the smaller index first, in order; their correlations float64 (P,), see `detail_correlation`.
    """
    kept, scores = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for pairs in candidates(hashes):
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            unique, place = np.unique(block, return_inverse=True)
            details = detail(thumbs(unique))
            first, second = place.reshape(-1, 2).T
            found = detail_correlation(details[first], details[second])
            near = found >= CORRELATION
            kept.append(block[near])
            scores.append(found[near])
    pairs, correlations = np.concatenate(kept), np.concatenate(scores)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], correlations[order]


def candidates(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of hashes that differ in at most 6 bits, each once, int64 (P, 2), the smaller index first.

    Such a pair agrees in one of seven bands of nine bits, so only hashes that share a band are compared (multi-index hashing,
    Norouzi, Punjani & Fleet 2012, CVPR): about N²/150 comparisons of single words for N hashes of natural pictures.
    """
    mask = np.uint64((1 << BAND_BITS) - 1)
    for band in range(BANDS):
        keys = (hashes >> np.uint64(BAND_BITS * band)) & mask
        order = np.argsort(keys, kind="stable")  # within a key by index
        ends = np.flatnonzero(np.diff(keys[order], append=np.uint64(1 << BAND_BITS))) + 1
        start = 0
        for end in ends.tolist():
            yield from _bucket(hashes, order[start:end], band)
            start = end


def _bucket(hashes: np.ndarray, members: np.ndarray, band: int) -> Iterator[np.ndarray]:
    """Yield the pairs of one bucket that no earlier band has found."""
    mine = hashes[members]
    rows = max(1, WIDEST // len(members))
    for top in range(0, len(members) - 1, rows):
        differ = mine[top : top + rows, None] ^ mine[None, top:]
        first, second = np.nonzero(np.bitwise_count(differ) <= DISTANCE)
        upper = first < second
        first, second = first[upper], second[upper]
        found = differ[first, second]
        fresh = np.ones(len(found), dtype=bool)
        for earlier in range(band):
            fresh &= (found >> np.uint64(BAND_BITS * earlier)) & np.uint64((1 << BAND_BITS) - 1) != 0
        if fresh.any():
            yield np.stack([members[top + first[fresh]], members[top + second[fresh]]], axis=1)


def detail(thumbs: np.ndarray) -> np.ndarray:
    """Return what stands out locally: each pixel less the mean of its 5 × 5 neighbours, over their standard deviation.

    The overall layout (a chest, a round field of view) is the same in pictures of different patients; it is taken out.

    Shape:
        thumbs: uint8 (N, 32, 32) → int8 (N, 32, 32), in 1/32 standard deviations.
    """
    values = thumbs.astype(np.float32)
    high = values - _box_mean(values)
    return np.clip(np.rint(32 * high / (np.sqrt(_box_mean(high * high)) + 2)), -127, 127).astype(np.int8)


def detail_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation that four fifths of the tiles of 8 × 8 pixels reach; tiles without detail are not counted.

    Shape:
        one, other: int8 (N, 32, 32) → float64 (N,), −1 … 1; −1 where fewer than four tiles have detail.
    """
    a, b = _tiles(one), _tiles(other)  # (N, 16, 64)
    power_a, power_b = (np.einsum("nkp,nkp->nk", x, x) for x in (a, b))
    product = np.einsum("nkp,nkp->nk", a, b)
    textured = np.maximum(power_a, power_b) > 16 * TILE * TILE  # an eighth of a standard deviation
    with np.errstate(invalid="ignore"):
        tiles = product / np.sqrt((power_a * power_b).astype(np.float64))
    tiles = np.where(textured, np.nan_to_num(tiles, nan=-1.0), -2.0)
    tiles = -np.sort(-tiles, axis=1)  # best first, tiles without detail last
    count = textured.sum(axis=1)
    place = np.maximum((4 * count + 4) // 5 - 1, 0)
    return np.where(count >= LEAST_TILES, tiles[np.arange(len(tiles)), place], -1.0)


def _tiles(details: np.ndarray) -> np.ndarray:
    across = SIDE // TILE
    cut = details.astype(np.int64).reshape(-1, across, TILE, across, TILE)
    return cut.transpose(0, 1, 3, 2, 4).reshape(len(details), across * across, TILE * TILE)


def _box_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of 5 × 5 neighbours, the border repeated; the order of addition is fixed."""
    padded = np.pad(values, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = sum(padded[:, k : k + SIDE] for k in range(5))
    return sum(rows[:, :, k : k + SIDE] for k in range(5)) / np.float32(25)
