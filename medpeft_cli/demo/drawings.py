"""Synthetic medical pictures of 64 × 64 pixels: dermoscopy, breast ultrasound, skin photograph, fundus, chest radiograph.

Each function draws one picture of a class. Its *findings* are drawn from the class's profile, but each one is taken from
another class in a share MIXED of the pictures: classes overlap, and no classifier can be perfect.
Values are float64 throughout: the last bit of exp or cos differs between processors, and vanishes in 8 bits a pixel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # ndimage only on use: a twin that is there already needs no drawing
from numpy.random import Generator

SIZE = 64
MIXED = 0.12
Array = np.ndarray
_AXIS = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
Y, X = np.meshgrid(_AXIS, _AXIS, indexing="ij")  # (64, 64) each, -1 … 1, down and right

LESIONS: dict[str, dict[str, Any]] = {  # colour in RGB; the strength of each other finding; all 0–1
    "akiec": {"colour": (0.76, 0.47, 0.40), "ragged": 0.5, "soft": 0.9, "patchy": 0.3, "scaly": 0.9},
    "bcc": {"colour": (0.74, 0.50, 0.47), "ragged": 0.3, "soft": 0.5, "vessels": 0.9, "dots": 0.3},
    "bkl": {"colour": (0.58, 0.40, 0.26), "ragged": 0.4, "soft": 0.1, "dots": 0.9, "scaly": 0.3},
    "df": {"colour": (0.62, 0.42, 0.33), "ragged": 0.1, "soft": 0.8, "scar": 0.9, "net": 0.5},
    "mel": {"colour": (0.38, 0.25, 0.22), "ragged": 1.0, "soft": 0.4, "patchy": 0.9, "net": 0.4},
    "nv": {"colour": (0.50, 0.32, 0.22), "ragged": 0.1, "soft": 0.4, "net": 0.6, "patchy": 0.1},
    "vasc": {"colour": (0.60, 0.18, 0.26), "ragged": 0.3, "soft": 0.2, "lagoons": 1.0},
}
MASSES: dict[str, dict[str, Any]] = {
    "benign": {"mass": 1.0, "spikes": 0.15, "upright": 0.2, "shadow": 0.2, "halo": 0.2, "uneven": 0.3},
    "malignant": {"mass": 1.0, "spikes": 0.9, "upright": 0.7, "shadow": 0.8, "halo": 0.7, "uneven": 0.7},
    "normal": {"mass": 0.0, "spikes": 0.3, "upright": 0.2, "shadow": 0.4, "halo": 0.3, "uneven": 0.4},
}
ERUPTIONS: dict[str, dict[str, Any]] = {
    "benign": {"number": 0.05, "size": 0.5, "ragged": 0.15, "dark": 0.6, "crust": 0.15, "raised": 0.7, "scaly": 0.1},
    "malignant": {"number": 0.05, "size": 0.75, "ragged": 0.7, "dark": 0.6, "crust": 0.7, "raised": 0.6, "scaly": 0.3},
    "non-neoplastic": {"number": 0.7, "size": 0.4, "ragged": 0.5, "dark": 0.2, "raised": 0.2, "scaly": 0.6},
}
DISCS: dict[str, dict[str, Any]] = {
    "healthy": {"cup": 0.40, "notch": 0.15, "pale": 0.3, "atrophy": 0.2, "thin": 0.2},
    "glaucoma": {"cup": 0.66, "notch": 0.7, "pale": 0.6, "atrophy": 0.6, "thin": 0.6},
}
CHESTS: dict[str, dict[str, Any]] = {
    "normal": {"opacity": 0.0, "number": 0.2, "effusion": 0.05, "haze": 0.25},
    "pneumonia": {"opacity": 0.8, "number": 0.5, "effusion": 0.4, "haze": 0.5},
}


def dermoscopy(label: str, group: Generator, rng: Generator) -> Array:
    """Draw a pigmented lesion in contact lighting, with hairs.

    Args:
        label: class of LESIONS.
        group: draws what the pictures of one patient share (skin, lamp).
        rng: draws the rest.

    Returns:
        float64 (64, 64, 3) RGB in about 0–1.
    """
    found = _findings(LESIONS, label, rng)
    skin = np.array([0.86, 0.68, 0.58]) + group.normal(0, 0.05) + group.normal(0, 0.02, 3)
    picture = skin + 0.02 * smooth(rng, 5)[..., None] + 0.015 * smooth(rng, 1)[..., None]
    edge = _ellipse(rng, rng.uniform(0.42, 0.7), rng.uniform(0.75, 1.0), warp=0.05 + 0.4 * found["ragged"])
    body = inside(edge, 0.04 + 0.22 * found["soft"])
    # darker or lighter, redder or browner: colour alone does not tell the classes apart
    tint = rng.normal(0, 0.08) + rng.normal(0, 0.03) * np.array([1.0, -0.8, -0.5])
    lesion = found["colour"] + tint + 0.03 * smooth(rng, 2)[..., None]
    lesion = lesion - 0.22 * found["patchy"] * np.clip(smooth(rng, 5), -0.6, 2)[..., None] * np.array([1.0, 0.9, 0.5])
    mesh = np.abs(smooth(rng, 1.9))
    lesion -= 0.3 * found["net"] * np.exp(-((mesh / 0.35) ** 2))[..., None]
    lesion += 0.3 * found["scaly"] * np.clip(smooth(rng, 1.4) - 0.8, 0, 1.5)[..., None]
    lesion += 0.4 * found["scar"] * inside(edge + 0.35, 0.3)[..., None]
    lesion += 0.45 * found["dots"] * _spots(rng, 20, 0.055)[..., None] * np.array([1.0, 0.95, 0.7])
    lagoons = _spots(rng, 14, 0.11)[..., None]
    lesion += found["lagoons"] * (lagoons - 0.4) * np.array([0.12, -0.12, -0.04])
    red_lines = _lines(rng, 8, 40, bend=0.12, width=0.6)[..., None]
    lesion -= 0.5 * found["vessels"] * red_lines * np.array([0.2, 1.0, 0.9])
    picture = picture * (1 - body[..., None]) + lesion * body[..., None]
    hairs = _lines(rng, int(rng.integers(1, 7)) if rng.random() < 0.4 else 0, 90, bend=0.015, width=0.45)
    picture *= (1 - 0.7 * hairs[..., None]) * (1 + group.normal(0, 0.03, 3))
    vignette = 1 - group.uniform(0.0, 0.35) * np.clip(np.hypot(X, Y) - 0.6, 0, 1)
    return expose(picture * vignette[..., None], group, rng, noise=0.025)


def ultrasound(label: str, group: Generator, rng: Generator) -> Array:
    """Draw a breast ultrasound: layers, speckle, and a dark mass or none. Arguments as in `dermoscopy`; (64, 64)."""
    found = _findings(MASSES, label, rng)
    depth = (Y + 1) / 2
    bands = scipy.ndimage.map_coordinates(smooth(rng, 4), [20 + 24 * depth, 32 + 10 * X], order=1, mode="wrap")
    tissue = 0.42 + 0.1 * bands + 0.18 * np.exp(-(((depth - 0.08) / 0.06) ** 2)) - group.uniform(0.1, 0.3) * depth
    if rng.random() < 0.5:  # a fat lobule, in every class
        tissue -= rng.uniform(0.05, 0.2) * inside(_ellipse(rng, rng.uniform(0.2, 0.4), 0.5, warp=0.2), 0.3)
    if found["mass"] > 0.5:
        x, y = X - rng.uniform(-0.35, 0.35), Y - rng.uniform(-0.3, 0.25)
        tall = 0.75 + 0.6 * found["upright"] * rng.uniform(0.5, 1.3)
        size = rng.uniform(0.22, 0.46)
        angle = np.arctan2(y / tall, x)
        spikes = np.interp(angle, np.linspace(-np.pi, np.pi, 29), np.append(w := rng.normal(0, 1, 28), w[0]))
        edge = np.hypot(x + 0.03 * smooth(rng, 5), y / tall + 0.03 * smooth(rng, 5)) - size * (
            1 + 0.25 * found["spikes"] * spikes
        )
        below = np.exp(-((x / size) ** 4)) * np.clip(y - size * tall * 0.7, 0, 0.4) / 0.4
        tissue += (0.22 - 0.5 * found["shadow"]) * below
        tissue += 0.2 * found["halo"] * np.exp(-((np.clip(edge, 0, 9) / 0.1) ** 2)) * (edge > 0)
        echo = rng.uniform(0.08, 0.22) + 0.06 * found["uneven"] * smooth(rng, 3)
        dark = inside(edge, 0.05 + 0.1 * found["uneven"]) * rng.uniform(0.6, 1.0)
        tissue = tissue * (1 - dark) + echo * dark
    grain = np.hypot(smooth(rng, (0.5, 0.9)), smooth(rng, (0.5, 0.9)))  # Rayleigh, wider than deep
    picture = np.clip(tissue, 0.02, 1) * (0.6 + 0.34 * grain)
    return expose(picture, group, rng, noise=0.02)


def skin_photograph(label: str, group: Generator, rng: Generator) -> Array:
    """Draw a clinical photograph of skin of any tone: a rash or one growth. Arguments as in `dermoscopy`; (64, 64, 3)."""
    found = _findings(ERUPTIONS, label, rng)
    tone = group.uniform(0, 1)
    skin = np.array([0.90, 0.72, 0.62]) * (1 - tone) + np.array([0.36, 0.23, 0.17]) * tone
    shade = group.uniform(0, 2 * np.pi)
    light = 1 + 0.18 * (X * np.cos(shade) + Y * np.sin(shade)) + 0.06 * smooth(rng, 9)
    picture = skin * light[..., None] + 0.02 * smooth(rng, 1.3)[..., None]
    number = 1 + rng.poisson(12 * found["number"] ** 2)
    size = (0.2 + 0.35 * found["size"]) * rng.uniform(0.8, 1.2) / number**0.45
    spots = np.zeros_like(X)
    rims = np.zeros_like(X)
    for _ in range(number):
        reach = 0.25 if number == 1 else 0.85
        edge = _ellipse(rng, size * rng.uniform(0.6, 1.3), rng.uniform(0.6, 1), 0.05 + 0.3 * found["ragged"], reach)
        spots = np.maximum(spots, inside(edge, 0.06 + 0.1 * (number > 1)))
        rims += np.exp(-((edge / 0.05) ** 2)) * np.sign(X * np.cos(shade) + Y * np.sin(shade))
    redness = np.array([0.02, -0.16, -0.13]) * (1 - 0.5 * tone)
    brown = -np.array([0.22, 0.24, 0.22]) * (1 - 0.4 * tone)
    change = redness * (1 - found["dark"]) * 1.3 + brown * found["dark"]
    crust = np.clip(smooth(rng, 3), -0.3, 1.5)[..., None] * np.array([0.02, -0.16, -0.18]) * found["crust"]
    scales = 0.3 * found["scaly"] * np.clip(smooth(rng, 0.9) - 0.7, 0, 1.5)[..., None]
    picture += spots[..., None] * (change + crust + scales)
    picture += 0.12 * found["raised"] * np.clip(rims, -1, 1)[..., None]
    return expose(picture, group, rng, noise=0.03)


def fundus(label: str, group: Generator, rng: Generator) -> Array:
    """Draw the optic disc region of a fundus: disc, cup, vessels. Arguments as in `dermoscopy`; (64, 64, 3)."""
    found = _findings(DISCS, label, rng)
    ground = np.array([0.72, 0.36, 0.18]) + group.normal(0, 0.04) + group.normal(0, 0.03, 3)
    picture = ground * (1 + 0.06 * smooth(rng, 8) + 0.05 * smooth(rng, 2) * group.uniform(0, 1))[..., None]
    cx, cy = rng.uniform(-0.3, 0.3, 2)
    x, y = X - cx, Y - cy
    radius, tall = group.uniform(0.27, 0.38), rng.uniform(1.0, 1.15)
    distance = np.hypot(x, y / tall)
    side = 1 if rng.random() < 0.5 else -1
    crescent = inside(np.hypot(x - side * 0.3 * radius, y / tall) - radius * 1.05, 0.06)
    picture += 0.2 * found["atrophy"] * crescent[..., None]
    streaks = np.exp(-((np.abs(y) - radius * 1.2) ** 2) / 0.06) * inside(distance - 0.9, 0.3)
    picture += 0.1 * (1 - found["thin"]) * (streaks * (1 + 0.4 * smooth(rng, 1.5)))[..., None]
    disc = inside(distance - radius + 0.015 * smooth(rng, 6), 0.05)[..., None]
    rim = np.array([0.88, 0.56, 0.30]) + 0.12 * found["pale"] * np.array([0.3, 1.0, 1.2])
    picture = picture * (1 - disc) + rim * disc
    ratio = np.clip(found["cup"] + rng.normal(0, 0.06), 0.15, 0.9)
    notch = 0.3 * found["notch"] * np.clip(y / radius, -1, 1) ** 2 * rng.uniform(0.5, 1.2)
    cup = inside(distance - radius * ratio * (1 + notch), 0.09)[..., None] * rng.uniform(0.6, 1.0)
    picture = picture * (1 - cup) + np.array([1.0, 0.93, 0.76]) * cup
    canvas = np.zeros_like(X)
    for up in (-1, 1, -1, 1, -1, 1):
        start = (cx + rng.normal(0, 0.04), cy)
        heading = up * rng.uniform(0.25, 0.75) * np.pi
        canvas += _trace(rng, start, heading, 70, bend=0.035) * rng.uniform(0.5, 1.3)
    vessels = np.tanh(scipy.ndimage.gaussian_filter(canvas, rng.uniform(0.55, 0.8)) * 1.3)[..., None]
    picture *= 1 - vessels * np.array([0.35, 0.6, 0.55])
    field = inside(np.hypot(X, Y) - group.uniform(1.0, 1.25), 0.03)[..., None]
    return expose(picture * field, group, rng, noise=0.025)


def radiograph(label: str, group: Generator, rng: Generator) -> Array:
    """Draw a frontal chest radiograph, with opacities or none. Arguments as in `dermoscopy`; (64, 64)."""
    found = _findings(CHESTS, label, rng)
    tilt, breath, breadth = rng.normal(0, 0.05), group.uniform(0.85, 1.1), group.uniform(0.85, 1.08)
    x, y = (X * np.cos(tilt) + Y * np.sin(tilt)) / breadth, (Y * np.cos(tilt) - X * np.sin(tilt)) / breath
    body = inside(np.hypot(x / 1.05, np.clip(-y - 0.2, 0, 9) * 1.2) ** 4 - 0.75, 0.5)
    picture = 0.12 + 0.58 * body + 0.02 * smooth(rng, 4)
    lungs = lung_fields(x, y)
    heart = inside(np.hypot((x - 0.16) / group.uniform(0.26, 0.4), (y - 0.3) / 0.36) - 1, 0.2)
    lungs *= 1 - 0.85 * heart
    ribs = np.cos(17 * (y + 0.45 * (np.abs(x) - 0.4) ** 2 - 0.25 * np.abs(x)) + rng.uniform(0, 6))
    markings = np.clip(smooth(rng, 1.4), 0, 2) * np.exp(-((np.abs(x) - 0.2) ** 2) / 0.06)
    air = 0.5 - 0.07 * ribs - 0.05 * markings - 0.1 * found["haze"]
    cloud = np.zeros_like(X)
    for _ in range(1 + int(rng.random() < found["number"])):
        side = 1 if rng.random() < 0.5 else -1
        reach = np.hypot(x - side * rng.uniform(0.3, 0.55), y - rng.uniform(-0.35, 0.45)) + 0.1 * smooth(rng, 5)
        cloud = np.maximum(cloud, inside(reach - rng.uniform(0.12, 0.3), 0.3) * (1 + 0.25 * smooth(rng, 2)))
    air = air - 0.42 * found["opacity"] * rng.uniform(0.4, 1.1) * cloud
    fluid = found["effusion"] * np.clip((y - 0.25) / 0.25, 0, 1) * (x * (1 if rng.random() < 0.5 else -1) > 0)
    picture -= lungs * air * (1 - 0.8 * fluid)
    picture += 0.1 * np.exp(-((x / 0.1) ** 2)) + 0.05 * np.exp(-(((y + 0.72 + 0.12 * np.abs(x)) / 0.04) ** 2))
    if rng.random() < 0.25:  # a catheter, in every class
        picture += 0.2 * _lines(rng, 1, 60, bend=0.02, width=0.5)
    return expose(picture, group, rng, noise=0.03)


def lung_fields(x: Array, y: Array) -> Array:
    """1 within the two lungs, (64, 64); x and y as X and Y, moved or stretched."""
    lungs = np.zeros_like(X)
    for side in (-1, 1):
        across = (x - side * (0.44 - 0.1 * np.clip(-y, 0, 1))) / (0.36 - 0.12 * np.clip(-y, -0.3, 1))
        down = (y + 0.06) / np.where(y > 0, 0.72 - 0.25 * np.abs(x), 0.74)
        lungs = np.maximum(lungs, inside((np.abs(across) ** 2.2 + np.abs(down) ** 3) - 1, 0.35))
    return lungs


def _findings(profiles: Mapping[str, Mapping[str, Any]], label: str, rng: Generator) -> dict[str, Any]:
    """Draw each finding around the profile of the class, or around that of another class in a share MIXED."""
    names = sorted({name for profile in profiles.values() for name in profile})
    others: Sequence[str] = sorted(profiles)
    drawn = {}
    for name in names:
        source = others[rng.integers(len(others))] if rng.random() < MIXED else label
        value = np.asarray(profiles[source].get(name, 0.0))
        drawn[name] = np.clip(value + rng.normal(0, 0.13 if value.ndim == 0 else 0.025, value.shape), 0, 1.1)
    return drawn


def smooth(rng: Generator, sigma: float | tuple[float, float]) -> Array:
    """White noise blurred by `sigma` pixels: (64, 64), mean 0, sd 1."""
    field = scipy.ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _ellipse(rng: Generator, radius: float, aspect: float, warp: float, reach: float = 0.25) -> Array:
    """Field of a randomly placed ellipse seen through warped glass: negative inside, (64, 64)."""
    angle = rng.uniform(0, np.pi)
    x = X - rng.uniform(-reach, reach) + warp * radius * 0.6 * smooth(rng, 3.5)
    y = Y - rng.uniform(-reach, reach) + warp * radius * 0.6 * smooth(rng, 3.5)
    along, aside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.hypot(along * aspect, aside / aspect) - radius


def inside(field: Array, softness: float) -> Array:
    """1 where the field is negative, falling to 0 over about `softness`."""
    return 1 / (1 + np.exp(np.clip(4 * field / softness, -30, 30)))


def _spots(rng: Generator, number: int, radius: float) -> Array:
    """Round spots anywhere, (64, 64) in [0, 1]."""
    cx, cy = rng.uniform(-0.75, 0.75, (2, number, 1, 1))
    return np.exp(-((X - cx) ** 2 + (Y - cy) ** 2) / radius**2).max(axis=0)


def _lines(rng: Generator, number: int, steps: int, bend: float, width: float) -> Array:
    """Thin lines anywhere, (64, 64) in [0, 1]; steps of half a pixel, bend in radians a step, width in pixels."""
    canvas = np.zeros_like(X)
    for _ in range(number):
        canvas += _trace(rng, rng.uniform(-0.9, 0.9, 2), rng.uniform(0, 2 * np.pi), steps, bend)
    return np.tanh(scipy.ndimage.gaussian_filter(canvas, width) * 1.2)


def _trace(rng: Generator, start: Sequence[float] | Array, heading: float, steps: int, bend: float) -> Array:
    """Points of one line from start (x, y in [-1, 1]) put down on (64, 64), each with weight 1 over 4 pixels."""
    angles = heading + np.cumsum(rng.normal(0, bend, steps)) + np.arange(steps) * rng.normal(0, bend / 2)
    column = (start[0] + 1) * SIZE / 2 - 0.5 + np.cumsum(np.cos(angles)) * 0.5
    row = (start[1] + 1) * SIZE / 2 - 0.5 + np.cumsum(np.sin(angles)) * 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    canvas = np.zeros((SIZE + 2, SIZE + 2))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
            np.add.at(canvas, (np.clip(top + down, -1, SIZE), np.clip(left + right, -1, SIZE)), weight)  # -1: cut off
    return canvas[:SIZE, :SIZE]


def expose(picture: Array, group: Generator, rng: Generator, noise: float) -> Array:
    """Brightness and contrast of the device, then sensor noise."""
    gain, offset = group.uniform(0.85, 1.15), group.normal(0, 0.03)
    return picture * gain * rng.uniform(0.95, 1.05) + offset + rng.normal(0, noise, picture.shape)
