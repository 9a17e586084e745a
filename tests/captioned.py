"""Small pictures with captions, prepared, and tiny pipelines beside them: what the tests of text-to-image start from."""

from pathlib import Path

import numpy as np
from PIL import Image

CARD = """\
name: shapes
title: Squares in words
modality: drawing
task: text
layout: {kind: csv, file: captions.csv, image: file, text: caption, split: split}
"""
RECIPE = """\
task: generate
data: {{card: {folder}/shapes.yaml, root: {folder}/data}}
pipeline: {{name: {folder}/{pipeline}}}
method: {{name: {method}}}
train: {{steps: 6, batch_size: 4, micro_batch_size: 4, lr: 1e-3, validate_steps: 3}}
sample: {{prompts: 6, steps: 3, count: 2, batch_size: 4}}
evaluate: {{bootstrap: 10}}
device: cpu
"""
COLOURS = ("red", "green", "blue")
SPLITS = ("train", "train", "train", "val", "test")


def write_captioned(folder: Path) -> Path:
    """Write 45 noisy pictures of a square whose colour its caption names, prepare them, and write two pipelines."""
    from medpeft_cli.data.card import load_card
    from medpeft_cli.data.prepare import prepare
    from tests.toys import toy_pipeline

    rng = np.random.default_rng(0)
    (folder / "raw").mkdir()
    rows = ["file,caption,split"]
    for number in range(45):
        channel = number % 3
        pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
        row, column = rng.integers(0, 12, 2)
        pixels[row : row + 12, column : column + 12, channel] += 130
        Image.fromarray(pixels).save(folder / "raw" / f"{number:02}.png")
        rows.append(f"{number:02}.png,a {COLOURS[channel]} square,{SPLITS[number // 3 % 5]}")
    (folder / "raw" / "captions.csv").write_text("\n".join(rows) + "\n")
    (folder / "shapes.yaml").write_text(CARD)
    prepare(load_card(str(folder / "shapes.yaml")), folder / "raw", folder / "data", workers=1)
    for kind in ("sd1", "sd2", "sdxl"):
        toy_pipeline(folder / kind, kind)
    return folder


def write_recipe(captioned: Path, stem: str, method: str = "bias", pipeline: str = "sd1") -> Path:
    """Write a recipe for the pictures; returns its path."""
    path = captioned / f"{stem}.yaml"
    path.write_text(RECIPE.format(folder=captioned, method=method, pipeline=pipeline))
    return path
