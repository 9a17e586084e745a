"""Captioned pictures the bundled text-to-image pipeline is pre-trained on: soft grey shapes, 64 × 64 pixels.

Captions name shape, number, size, side, height and tone, in the order of a report; left and right are those of a radiograph
(left is on the right of the picture). In a share of them a report's word stands for the shape that comes nearest, as in
the captions that the real model has read. No radiograph takes part.
"""

import re

import numpy as np
from numpy.random import Generator

from medpeft_cli.demo.drawings import SIZE, Array, X, Y, inside, smooth

TONES = {"dark": -1, "bright": 1}
GROUNDS = {"dark": (0.18, 0.36), "grey": (0.4, 0.6), "bright": (0.62, 0.85)}
SIZES = {"small": (0.1, 0.17), "moderate": (0.2, 0.28), "large": (0.32, 0.45)}
DEGREES = {"mild": 0.25, "moderate": 0.55, "severe": 0.9}
SIDES = {"right": (-0.6, -0.3), "central": (-0.1, 0.1), "left": (0.3, 0.6)}
ZONES = {
    "upper": (-0.6, -0.3), "apical": (-0.7, -0.4), "mid": (-0.12, 0.12), "lower": (0.3, 0.6), "basilar": (0.4, 0.7),
}  # fmt: skip
SHAPES = ("disc", "oval", "square", "ring", "cloud")
MEDICAL = (
    ("bright cloud", "lung opacity"),
    ("bright disc", "lung nodule"),
    ("bright haze", "pulmonary edema"),
    ("bright level", "pleural effusion"),
    ("bright line", "central line in place"),
)
MEDICAL_SHARE = 0.4


def make_scenes(count: int, seed: int, medical_share: float = MEDICAL_SHARE) -> tuple[np.ndarray, list[str]]:
    """Draw captioned pictures.

    Args:
        count: N, number of pictures.
        seed: of the whole set; the same seed gives the same pictures.
        medical_share: of the sentences that could be, are told in a report's words.

    Returns:
        uint8 (N, 64, 64) grey, and N captions.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pictures, captions = np.empty((count, SIZE, SIZE), np.uint8), []
    for number in range(count):
        picture, caption = draw_scene(rng, medical_share)
        pictures[number] = np.clip(picture, 0, 1) * 255 + 0.5
        captions.append(caption)
    return pictures, captions


def draw_scene(rng: Generator, medical_share: float) -> tuple[Array, str]:
    """Draw one picture: a ground with none to three things on it.

    Returns:
        float64 (64, 64) in about 0–1, and its caption, one sentence for each thing.
    """
    words = rng.spawn(1)[0]  # the picture does not depend on the wording
    picture, ground = _ground(rng)
    things = [thing for thing, share in THINGS if rng.random() < share][:3]
    told = [f"{ground} ground"] if rng.random() < 0.5 or not things else []
    for thing in things:
        picture, sentence = thing(rng, picture)
        if words.random() < medical_share:
            for shape, term in MEDICAL:
                sentence = re.sub(f"{shape}$", term, sentence)  # two of them keep their plain name
        told.append(sentence)
    picture = picture * rng.uniform(0.9, 1.1) + 0.02 * smooth(rng, rng.uniform(2, 6))
    picture += rng.normal(0, rng.uniform(0, 0.012), picture.shape)
    return picture, " ".join(text[0].upper() + text[1:] + "." for text in told)


def _ground(rng: Generator) -> tuple[Array, str]:
    """A tone, shaded in one direction, striped or bounded by a dark surround: (64, 64), and its name."""
    name = _choose(rng, GROUNDS)
    angle, kind = rng.uniform(0, 2 * np.pi), rng.random()
    picture = rng.uniform(*GROUNDS[name]) + rng.uniform(0, 0.12) * (X * np.cos(angle) + Y * np.sin(angle))
    if kind < 0.2:
        name = f"striped {name}"
        bend = rng.uniform(-0.5, 0.5) * X**2
        picture += rng.uniform(0.03, 0.08) * np.cos(rng.uniform(6, 20) * (X * np.cos(angle) + Y * np.sin(angle) + bend))
    elif kind < 0.65:
        name = f"bounded {name}"
        bounds = (
            (X - rng.normal(0, 0.08)) / rng.uniform(0.7, 1.15),
            (Y - rng.uniform(-0.2, 0.5)) / rng.uniform(0.8, 1.5),
        )
        body = inside(np.abs(bounds[0]) ** rng.uniform(2, 5) + np.abs(bounds[1]) ** rng.uniform(2, 5) - 1, 0.5)
        picture = rng.uniform(0, 0.2) * (1 - body) + picture * body
    return picture, name


def _pair(rng: Generator, picture: Array) -> tuple[Array, str]:
    """Two equal shapes, left and right."""
    shape, size, zone, tone = (_choose(rng, words) for words in (SHAPES, SIZES, ZONES, TONES))
    size = size if rng.random() < 0.5 else "large"
    apart, height = rng.uniform(*SIDES["left"]), rng.uniform(*ZONES[zone])
    radius, form = rng.uniform(*SIZES[size]), rng.integers(1 << 32)
    masks = [
        _shape(np.random.Generator(np.random.PCG64(form)), shape, (side * X - apart), Y - height, radius)
        for side in (-1, 1)
    ]
    return _ink(rng, picture, np.maximum(*masks), tone), f"two {size} {zone} {tone} {shape}s"


def _single(rng: Generator, picture: Array) -> tuple[Array, str]:
    """One shape somewhere."""
    shape, size, side, zone, tone = (_choose(rng, words) for words in (SHAPES, SIZES, SIDES, ZONES, TONES))
    x, y = X - rng.uniform(*SIDES[side]), Y - rng.uniform(*ZONES[zone])
    mask = _shape(rng, shape, x, y, rng.uniform(*SIZES[size]))
    return _ink(rng, picture, mask, tone), f"{size} {side} {zone} {tone} {shape}"


def _level(rng: Generator, picture: Array) -> tuple[Array, str]:
    """What lies below a tilted edge, on one side."""
    size, side, tone = _choose(rng, SIZES), _choose(rng, ("left", "right")), _choose(rng, TONES)
    sign = 1 if side == "left" else -1
    edge = Y - 0.7 + 2 * rng.uniform(*SIZES[size]) + rng.uniform(-0.3, 0.3) * (np.abs(X) - 0.4)
    mask = inside(-edge, rng.uniform(0.05, 0.3)) * inside(-sign * X, rng.uniform(0.05, 0.3))
    return _ink(rng, picture, mask, tone), f"{size} {side} {tone} level"


def _line(rng: Generator, picture: Array) -> tuple[Array, str]:
    """A thin curved line from the border inwards."""
    side, tone = _choose(rng, ("left", "right")), _choose(rng, TONES)
    sign = 1 if side == "left" else -1
    along = np.clip(rng.uniform(-0.2, 0.6) - Y, 0, None)
    path = sign * (rng.uniform(0, 0.15) + rng.uniform(0.2, 0.8) * along ** rng.uniform(0.8, 2))
    mask = np.exp(-(((X - path) / rng.uniform(0.025, 0.06)) ** 2)) * (along > 0)
    return _ink(rng, picture, mask, tone), f"{side} {tone} line"


def _haze(rng: Generator, picture: Array) -> tuple[Array, str]:
    """Soft patches all over."""
    degree, tone = _choose(rng, DEGREES), _choose(rng, TONES)
    mask = np.clip(0.4 + 0.5 * smooth(rng, rng.uniform(3, 8)), 0, 1) * DEGREES[degree]
    return picture + TONES[tone] * 0.25 * mask, f"{degree} {tone} haze"


THINGS = ((_pair, 0.5), (_level, 0.25), (_single, 0.55), (_line, 0.2), (_haze, 0.2))


def _shape(rng: Generator, shape: str, x: Array, y: Array, radius: float) -> Array:
    """1 within a shape around the origin, 0 outside, with a soft edge; x and y as X and Y, moved: (64, 64)."""
    softness = rng.uniform(0.1, 0.5)
    if shape == "oval":
        tilt, stretch = rng.normal(0, 0.3), rng.uniform(1.4, 2.2)
        x, y = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / stretch
    if shape == "square":
        reach = (x**6 + y**6) ** (1 / 6)
    elif shape == "cloud":
        reach, softness = np.hypot(x, y) * (1 + 0.15 * smooth(rng, 4)), 0.9
    else:
        reach = np.hypot(x, y)
    mask = inside(reach / radius - 1, softness)
    return mask - inside(reach / radius - 0.55, softness) if shape == "ring" else mask


def _ink(rng: Generator, picture: Array, mask: Array, tone: str) -> Array:
    """Lay a tone over the masked part, darker or brighter than what is there."""
    contrast = rng.uniform(0.2, 0.5)
    goal = np.clip(picture + TONES[tone] * contrast, 0.03, 0.97)
    return picture + mask * (goal - picture)


def _choose(rng: Generator, words: object) -> str:
    return str(list(words)[rng.integers(len(words))])  # type: ignore[call-overload, arg-type]
