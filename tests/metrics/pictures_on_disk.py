"""Small noisy pictures in folders, as a generator and a hospital would leave them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(
    folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (70, 64), prompts=None
) -> list[Path]:
    """Write smooth colour pictures of (width, height) pixels; with prompts, images.jsonl too."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06}.png" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    if prompts:
        lines = [{"file": path.name, "prompt": prompts[i % len(prompts)]} for i, path in enumerate(paths)]
        (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths
