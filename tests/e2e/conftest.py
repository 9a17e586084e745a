"""Real pictures on disk, and the real command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPE = """\
task: classify
data: {{card: {card}, root: {root}}}
backbone: {{name: demo_vit}}
method: {{name: {method}}}
train: {{epochs: 4, batch_size: 16, micro_batch_size: 8, lr: 3e-3, checkpoint_seconds: 0}}
evaluate: {{bootstrap: 50}}
"""

CARD = """\
name: shapes
title: Squares by colour
modality: drawing
licence: none
citation: none
access: own
classes: [red, green, blue]
layout: {kind: class_folders}
"""


def draw(folder: Path, per_class: int = 24, size: int = 48) -> None:
    """Write noisy pictures of a square somewhere, whose colour is the class."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
            row, column = rng.integers(0, size - 24, 2)
            pixels[row : row + 24, column : column + 24, channel] += 130
            Image.fromarray(pixels).save(folder / name / f"{name}_{number:02}.png")


def run(*arguments: object, cwd: Path, timeout: int = 240, **options) -> subprocess.CompletedProcess:
    """Run `medpeft …` as a user does."""
    command = [sys.executable, "-m", "medpeft_cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, **options)


@pytest.fixture(scope="module")
def one_thread():
    """As several processes have it here, so that their sums are those of one process to the bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A prepared dataset of three classes; its folder also holds the raw pictures and the card."""
    folder = tmp_path_factory.mktemp("shapes")
    draw(folder / "raw")
    (folder / "shapes.yaml").write_text(CARD)
    done = run("prepare", "shapes.yaml", "--source", "raw", "--root", "data", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def write_recipe(dataset):
    """Return a function that writes a recipe for the dataset and returns its path."""

    def write(method: str = "bias", stem: str | None = None) -> Path:
        path = dataset / f"{stem or method}.yaml"
        path.write_text(RECIPE.format(card=dataset / "shapes.yaml", root=dataset / "data", method=method))
        return path

    return write
