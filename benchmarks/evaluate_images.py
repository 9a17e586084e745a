"""Where `evaluate --real --generated` spends its time: at least 90 % should be the encoder's; run by hand.

    python benchmarks/evaluate_images.py [--images 1000] [--pixels 512] [--encoder timm:mobilenetv2_100,…] [--weights FILE]

It makes two sets of noisy pictures in a temporary folder, compares them with nothing kept from before, and prints the seconds
of each part, imports left out. Reading and resizing happen in threads beside the encoder, so the parts that wait are what counts.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medpeft_cli.console import console
from medpeft_cli.engine import compare as line
from medpeft_cli.engine.assembly import pick_device
from medpeft_cli.metrics import generation
from medpeft_cli.metrics.encoders import Encoder, load_encoder
from medpeft_cli.metrics.pictures import folder_pictures

seconds: defaultdict[str, float] = defaultdict(float)


@contextmanager
def timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - start


def timing(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with timed(name):
            return work(*arguments, **options)

    return wrapped


def make_pictures(folder: Path, count: int, pixels: int, seed: int) -> None:
    """Write grey PNGs with the noise of a radiograph, as RGB, as Stable Diffusion saves them."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        coarse = Image.fromarray(rng.integers(40, 200, (8, 8), dtype=np.uint8)).resize((pixels, pixels), Image.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + rng.integers(-6, 7, (pixels, pixels), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert("RGB").save(
            folder / f"{number:06}.png", compress_level=1
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--encoder", default="timm:mobilenetv2_100,pad_type=same,mean=0.5,std=0.5")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    console.quiet = True
    device = pick_device("auto")
    encoder = load_encoder(arguments.encoder, device, arguments.weights)
    Encoder.encode = timing("encoder", Encoder.encode)  # type: ignore[method-assign]
    line.features_of = timing("features", line.features_of)
    line.ms_ssim_pairs = timing("MS-SSIM", line.ms_ssim_pairs)
    for name in ("fid_measure", "kid_measure", "manifold_measures", "estimates"):
        setattr(generation, name, timing(name, getattr(generation, name)))
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("real", "generated")]
        for seed, folder in enumerate(folders):
            make_pictures(folder, arguments.images, arguments.pixels, seed)
        with timed("all"):
            with timed("hashing"):
                sets = [folder_pictures([folder]) for folder in folders]
            scores = line.compare(*sets, encoder=encoder)
    features = scores["protocol"]["encoder"]["features"]
    print(f"{arguments.images:,} against {arguments.images:,} images of {arguments.pixels} px, {features:,} features")
    print(f"{encoder.name} on {device}, {torch.get_num_threads()} threads")
    seconds["waiting for pictures"] = seconds.pop("features") - seconds["encoder"]
    whole = seconds.pop("all")
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:22} {spent:8.2f} s {100 * spent / whole:6.1f} %")
    print(f"{'all':22} {whole:8.2f} s")


if __name__ == "__main__":
    main()
