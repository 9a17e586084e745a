"""Formula-driven pictures the bundled backbones are pre-trained on: 9 families of shapes and textures, 16 classes each.

A class fixes two attributes of a family, such as the number of blobs and their size; position, colour, contrast, noise,
blur and clutter are random. No picture of anything real takes part, and no generator of `twins.py` either.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import fft, ndimage

SIZE = 64
LEVELS = 4  # of each of a family's two attributes
Drawing = Callable[[Generator, np.ndarray, np.ndarray], np.ndarray]


def make_source(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labelled source pictures, every class equally often.

    Args:
        count: N, number of pictures.
        seed: of the whole set; the same seed gives the same pictures.

    Returns:
        uint8 (N, 64, 64, 3) RGB; int64 (N,) labels in [0, 144), in random order; float32 (N, 6) RGB of ground and
        drawing, 0–1.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.permutation(np.arange(count) % CLASSES)
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    colours = np.empty((count, 6), np.float32)
    family, first, second = np.unravel_index(labels, (len(FAMILIES), LEVELS, LEVELS))
    for number, draw in enumerate(FAMILIES.values()):
        members = np.flatnonzero(family == number)
        for chunk in np.array_split(members, max(1, len(members) // 256)):
            if len(chunk):
                pictures[chunk], colours[chunk] = _paint(rng, draw(rng, first[chunk], second[chunk]))
    return pictures, labels, colours


def waves(rng: Generator, frequency: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Sum of 1–4 plane waves at equal angles, 4 frequencies."""
    x, y = _frame(rng, len(frequency), shift=1.0)
    cycles = (2.0 * 1.6**frequency * _spread(rng, len(frequency), 0.12))[:, None, None]
    total = np.zeros_like(x)
    for k in range(LEVELS):
        angle = (np.pi * k / (directions + 1) + rng.normal(0, 0.05, len(directions)))[:, None, None]
        phase = rng.uniform(0, 2 * np.pi, len(directions))[:, None, None]
        wave = np.cos(np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        total += wave * (k <= directions)[:, None, None]
    return _squash(rng, total)


def clouds(rng: Generator, slope: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Noise of a power-law spectrum, 4 slopes × 4 degrees of elongation."""
    return _squash(rng, _spectral(rng, len(slope), 0.6 + 0.65 * slope, 1.0 + 0.9 * stretch))


def outlines(rng: Generator, irregularity: np.ndarray, lobes: np.ndarray) -> np.ndarray:
    """One filled shape, 4 amplitudes of its outline's waves × 4 bands of their number."""
    n = len(lobes)
    edge = _outline(rng, n, amplitude=0.03 + 0.075 * irregularity, low=np.array([2, 4, 7, 11])[lobes])
    inside = _step(edge, rng.uniform(0.02, 0.12, n))
    grain = _spectral(rng, n, rng.uniform(0.5, 2.5, n), np.ones(n)) * rng.uniform(0, 0.15, n)[:, None, None]
    return inside * (1 - np.abs(grain))


def fillings(rng: Generator, texture: np.ndarray, border: np.ndarray) -> np.ndarray:
    """One shape filled with dots, stripes, a mesh or patches; border sharp, soft, rimmed or shaded towards the middle."""
    n = len(texture)
    edge = _outline(rng, n, amplitude=rng.uniform(0.02, 0.2, n), low=rng.integers(2, 6, n))
    x, y = _frame(rng, n, shift=1.0)
    k = rng.uniform(9, 15, n)[:, None, None]
    stripes, across = np.cos(k * x), np.cos(k * y)
    patches = _spectral(rng, n, np.full(n, 1.8), np.ones(n))
    scatter = _blobs(rng, n, np.full(n, 26), rng.uniform(0.05, 0.08, n), 26) * 2.4 - 1.2
    kinds = np.stack([scatter, stripes, np.maximum(stripes, across) * 1.3 - 0.4, patches])
    pattern = kinds[texture, np.arange(n)]
    width = np.where(border == 1, rng.uniform(0.18, 0.3, n), 0.04)
    inside = _step(edge, width)
    rim = np.exp(-((edge / 0.07) ** 2)) * (border == 2)[:, None, None]
    shade = np.where((border == 3)[:, None, None], np.clip(1 - 1.6 * edge, 0.3, 1), 1.0)
    contrast = rng.uniform(0.25, 0.5, n)[:, None, None]
    return np.clip(inside * shade * (1 - contrast + contrast * np.tanh(1.5 * pattern)) * 0.75 + 0.5 * rim, 0, 1)


def clusters(rng: Generator, number: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Scattered round blobs, 4 numbers × 4 sizes."""
    counts = np.array([3, 7, 14, 28])[number]
    radius = np.array([0.05, 0.08, 0.12, 0.18])[size] * _spread(rng, len(size), 0.12)
    return _blobs(rng, len(size), counts, radius, 28)


def rings(rng: Generator, ratio: np.ndarray, arrangement: np.ndarray) -> np.ndarray:
    """Nested discs, 4 ratios of radii × inner disc centred, off centre, twice, or cut out."""
    n = len(ratio)
    x, y = _frame(rng, n, shift=0.35)
    outer = rng.uniform(0.4, 0.85, n)[:, None, None]
    inner = outer * (0.22 + 0.17 * ratio * _spread(rng, n, 0.08))[:, None, None]
    squeeze = rng.uniform(0.8, 1.0, n)[:, None, None]
    radius = np.hypot(x, y / squeeze)
    room = (outer - inner) * 0.75
    offset = np.where((arrangement == 1)[:, None, None], room, 0.0)
    nested = np.hypot(x - offset, y / squeeze)
    half = inner * 0.62
    twice = np.minimum(np.hypot(x - outer * 0.42, y), np.hypot(x + outer * 0.42, y)) - half
    soft = rng.uniform(0.02, 0.08, n)
    disc = _step(radius - outer, soft)
    core = _step(np.where((arrangement == 2)[:, None, None], twice, nested - inner), soft)
    level = rng.uniform(0.35, 0.65, n)[:, None, None]
    return np.where((arrangement == 3)[:, None, None], disc * (1 - core), disc * (level + (1 - level) * core))


def strands(rng: Generator, number: np.ndarray, curl: np.ndarray) -> np.ndarray:
    """Thin curved lines, 4 numbers × 4 curvatures."""
    n, steps = len(number), 110
    counts = np.array([2, 5, 10, 20])[number]
    canvas = np.zeros((n, SIZE, SIZE))
    thickness = rng.uniform(0.5, 1.1, n)
    for line in range(20):
        drift = rng.normal(0, 0.03 + 0.13 * curl[:, None], (n, steps // 10)).repeat(10, axis=1) * 0.9
        turn = rng.normal(0, 0.35 * curl / 10)[:, None] * 0.5 + drift
        heading = rng.uniform(0, 2 * np.pi, n)[:, None] + np.cumsum(turn, axis=1)
        column = rng.uniform(0, SIZE, n)[:, None] + np.cumsum(np.cos(heading), axis=1) * 0.6
        row = rng.uniform(0, SIZE, n)[:, None] + np.cumsum(np.sin(heading), axis=1) * 0.6
        seen = (line < counts)[:, None] & (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
        picture = np.broadcast_to(np.arange(n)[:, None], row.shape)
        canvas[picture[seen], row[seen].astype(int), column[seen].astype(int)] = 1.0
    for picture in range(n):
        canvas[picture] = ndimage.gaussian_filter(canvas[picture], thickness[picture])
    return np.tanh(canvas * (2.2 * thickness)[:, None, None])


def cells(rng: Generator, number: np.ndarray, rendering: np.ndarray) -> np.ndarray:
    """Voronoi cells, 4 numbers × walls, flat tones, domes or scales."""
    n, most = len(number), 44
    counts = np.array([6, 12, 23, 44])[number]
    x, y = _frame(rng, n, shift=0.0, zoom=0.0)
    near, second, tone = np.full_like(x, 9.0), np.full_like(x, 9.0), np.zeros_like(x)
    for k in range(most):
        cx, cy = rng.uniform(-1.15, 1.15, (2, n, 1, 1))
        distance = np.where((k < counts)[:, None, None], np.hypot(x - cx, y - cy), 9.0)
        closer = distance < near
        second = np.where(closer, near, np.minimum(second, distance))
        tone = np.where(closer, rng.uniform(0, 1, n)[:, None, None], tone)
        near = np.minimum(near, distance)
    scale = (1.3 / np.sqrt(counts))[:, None, None]
    gap = (second - near) / scale
    styles = np.stack([np.exp(-((gap / 0.16) ** 2)), tone, 1 - np.clip(near / scale, 0, 1), np.clip(gap, 0, 1) * tone])
    return styles[rendering, np.arange(n)]


def pairs(rng: Generator, size: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A large and a small shape, 4 ratios of their sizes × 4 gaps between them, from overlapping to far."""
    n = len(size)
    x, y = _frame(rng, n, shift=0.2)
    large = rng.uniform(0.26, 0.36, n)[:, None, None]
    small = large * (1.0 - 0.2 * size * _spread(rng, n, 0.08))[:, None, None]
    apart = large + small * np.array([-0.35, 0.1, 0.65, 1.3])[distance][:, None, None]
    left = np.hypot(x + apart / 2, y / rng.uniform(0.75, 1.3, n)[:, None, None]) - large
    right = np.hypot(x - apart / 2, y / rng.uniform(0.75, 1.3, n)[:, None, None]) - small
    soft = rng.uniform(0.02, 0.1, n)
    level = rng.uniform(0.55, 1.0, n)[:, None, None]
    return np.maximum(_step(left, soft), level * _step(right, soft))


FAMILIES: dict[str, Drawing] = {
    draw.__name__: draw for draw in (waves, clouds, outlines, fillings, clusters, rings, strands, cells, pairs)
}
CLASSES = len(FAMILIES) * LEVELS**2


def _frame(rng: Generator, n: int, shift: float, zoom: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates in [-1, 1], turned, shifted and scaled at random: two of (n, 64, 64)."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    row, column = np.meshgrid(axis, axis, indexing="ij")
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    scale = np.exp(rng.normal(0, zoom, (n, 1, 1)))
    across, down = rng.uniform(-shift, shift, (2, n, 1, 1))
    x, y = (column - across) * scale, (row - down) * scale
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _outline(rng: Generator, n: int, amplitude: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Signed distance-like field of a closed outline with waves `low` … `low` + 3: negative inside, (n, 64, 64)."""
    x, y = _frame(rng, n, shift=0.3)
    angle = np.arctan2(y, x / rng.uniform(0.75, 1.0, (n, 1, 1)))
    radius = np.ones_like(x)
    weights = rng.dirichlet(np.full(4, 1.5), n)
    for k in range(4):
        phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        radius += (2 * amplitude * weights[:, k])[:, None, None] * np.cos((low + k)[:, None, None] * angle + phase)
    return np.hypot(x, y) - radius * rng.uniform(0.35, 0.65, (n, 1, 1))


def _blobs(rng: Generator, n: int, counts: np.ndarray, radius: np.ndarray, most: int) -> np.ndarray:
    """Largest of up to `most` Gaussian spots, (n, 64, 64) in [0, 1]."""
    x, y = _frame(rng, n, shift=0.0, zoom=0.0)
    field = np.zeros_like(x, dtype=np.float32)
    x, y = x.astype(np.float32), y.astype(np.float32)
    for k in range(most):
        cx, cy = rng.uniform(-0.95, 0.95, (2, n, 1, 1)).astype(np.float32)
        width = (radius * _spread(rng, n, 0.15))[:, None, None].astype(np.float32)
        reach = np.where((k < counts)[:, None, None], ((x - cx) ** 2 + (y - cy) ** 2) / width**2, np.float32(99))
        field = np.maximum(field, np.exp(-reach))
    return np.clip(field * 1.6, 0, 1)


def _spectral(rng: Generator, n: int, slope: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Gaussian noise whose amplitude falls as 1 / f^slope, elongated by `stretch`: (n, 64, 64), mean 0, sd 1."""
    down, across = fft.fftfreq(SIZE)[:, None], fft.rfftfreq(SIZE)[None, :]
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    along = across * np.cos(angle) + down * np.sin(angle)
    aside = (down * np.cos(angle) - across * np.sin(angle)) * np.asarray(stretch, float)[:, None, None]
    decay = (np.hypot(along, aside) + 1 / SIZE) ** -np.asarray(slope, float)[:, None, None]
    field = fft.irfft2(fft.rfft2(rng.normal(size=(n, SIZE, SIZE))) * decay, s=(SIZE, SIZE))
    field -= field.mean(axis=(1, 2), keepdims=True)
    return field / field.std(axis=(1, 2), keepdims=True)


def _spread(rng: Generator, n: int, deviation: float) -> np.ndarray:
    """Factors around 1, (n,)."""
    return np.exp(rng.normal(0, deviation, n))


def _step(field: np.ndarray, width: np.ndarray) -> np.ndarray:
    """1 where the field is negative, 0 where it is positive, with a soft edge of `width` (n,)."""
    return 1 / (1 + np.exp(np.clip(4 * field / width[:, None, None], -30, 30)))


def _squash(rng: Generator, field: np.ndarray) -> np.ndarray:
    """Map a field to (0, 1) with a random steepness, from smooth to nearly two tones."""
    field = field / field.std(axis=(1, 2), keepdims=True)
    steep = np.exp(rng.uniform(-0.7, 1.6, (len(field), 1, 1)))
    return 1 / (1 + np.exp(np.clip(-steep * (field - rng.normal(0, 0.25, (len(field), 1, 1))), -30, 30)))


def _paint(rng: Generator, drawing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour drawings in [0, 1] and spoil them: background, clutter, speckle, noise, blur.

    Returns:
        uint8 (n, 64, 64, 3), and float (n, 6) RGB of ground and drawing as they end up.
    """
    n = len(drawing)
    spoilt = rng.uniform(0, 1, (n, 1, 1)) ** 1.5  # clean pictures among them: training does not start without
    grey = rng.random((n, 1)) < 0.35
    ground, ink = (np.where(grey, colour[:, :1], colour) for colour in rng.uniform(0.05, 0.95, (2, n, 3)))
    apart = np.abs(ink - ground).mean(axis=1, keepdims=True) < 0.25  # too faint: push the ink to the other side
    ink = np.where(apart, np.where(ground > 0.5, ground - 0.35, ground + 0.35), ink)
    drawing = drawing[..., None]
    background = _spectral(rng, n, rng.uniform(0.8, 2.5, n), rng.uniform(1, 2.5, n)) * 0.1 * spoilt
    picture = ground[:, None, None] * (1 - drawing) + ink[:, None, None] * drawing + background[..., None]
    clutter = _clutter(rng, n) * spoilt[..., None]
    picture = picture * (1 - clutter) + rng.uniform(0, 1, (n, 1, 1, 3)) * clutter
    speckle = np.exp(_spectral(rng, n, rng.uniform(0.0, 0.6, n), np.ones(n)) * rng.uniform(0, 0.3, (n, 1, 1)) * spoilt)
    picture *= speckle[..., None]
    for number in np.flatnonzero(rng.random(n) < 0.2):
        picture[number] = ndimage.gaussian_filter(picture[number], (0.8, 0.8, 0))
    contrast, middle = rng.uniform(0.7, 1.2, (n, 1)), rng.uniform(0.38, 0.62, (n, 1))
    picture = (picture - 0.5) * contrast[..., None, None] + middle[..., None, None]
    picture += rng.normal(size=picture.shape) * 0.08 * spoilt[..., None]
    colours = (np.concatenate([ground, ink], axis=1) - 0.5) * contrast + middle
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), np.clip(colours, 0, 1)


def _clutter(rng: Generator, n: int) -> np.ndarray:
    """Straight scratches and small spots in a third of the pictures, (n, 64, 64, 1) in [0, 1]."""
    mask = np.zeros((n, SIZE, SIZE))
    for _ in range(3):
        x, y = _frame(rng, n, shift=0.7)
        drawn = rng.random((n, 1, 1)) < 0.2
        mask = np.maximum(mask, drawn * np.exp(-((y / 0.03) ** 2)) * (np.abs(x) < rng.uniform(0.3, 1.2, (n, 1, 1))))
        x, y = _frame(rng, n, shift=0.9)
        drawn = rng.random((n, 1, 1)) < 0.15
        mask = np.maximum(mask, drawn * np.exp(-((np.hypot(x, y) / rng.uniform(0.05, 0.15, (n, 1, 1))) ** 4)))
    return mask[..., None] * rng.uniform(0.4, 1.0, (n, 1, 1, 1))
