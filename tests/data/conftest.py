"""Small pictures and cards that the tests of `data` write."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpeft_cli.data.card import Card


def picture(seed: int, height: int = 24, width: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def write_picture():
    """Write a random picture that depends on `seed`; returns its path."""

    def write(path: Path, seed: int = 0, **size) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed, **size)).save(path)
        return path

    return write


@pytest.fixture
def make_card():
    """Return a card of two classes with the given layout and split."""

    def make(layout: dict, **fields) -> Card:
        base = {"name": "mine", "title": "Mine", "modality": "test", "classes": ("a", "b"), "layout": layout}
        return Card(**(base | fields))

    return make


@pytest.fixture
def class_folders(tmp_path, write_picture) -> Path:
    """A source of ten pictures for each of the classes a and b."""
    source = tmp_path / "source"
    for number in range(10):
        write_picture(source / "a" / f"a{number}.png", number)
        write_picture(source / "b" / f"b{number}.png", 100 + number)
    return source
