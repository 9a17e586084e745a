"""What linear probing costs beside forward passes over the data, and what the features of frozen parts save of other trainings.

    python -m benchmarks.frozen [--backbone vit_tiny_patch16_224] [--pixels 224] [--images 900] [--epochs 20] [--trials 8] [--repeats 2]

A forward pass reads every picture of the dataset (training, validation, test) once, as evaluation does. Linear probing is a whole
run, on a dataset that nothing was computed from: a search of the learning rate, the training, the test split, the record.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.finetune import make_dataset
from benchmarks.measure import Row, compare, seconds
from medpeft_cli.console import console
from medpeft_cli.engine import classify
from medpeft_cli.engine.assembly import assemble, pick_device
from medpeft_cli.engine.predict import evaluation_batches, predict
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.start import start_run

PLAIN = {"crop_scale": None, "horizontal_flip": 0.0}
TARGET = 1.2


def recipe_of(
    options: argparse.Namespace, root: Path, method: str, *, epochs: int, trials: int = 0, augment: dict
) -> Loaded:
    """Return a recipe on the benchmark's pictures."""
    space = {"trials": trials, "space": {"train.lr": {"log": [1e-4, 1e-1]}}} if trials else {}
    recipe = ClassifyRecipe.model_validate({
        "task": "classify",
        "data": {"card": str(root / "bench.yaml"), "root": root / "data"},
        "backbone": {"name": options.backbone, "weights": "random", "input": {"size": options.pixels}},
        "method": {"name": method},
        "train": {"epochs": epochs, "batch_size": 128, "select": "loss"},
        "augment": augment,
        "search": space,
        "device": options.device,
    })  # fmt: skip
    return Loaded(recipe, root / "bench.yaml", {})


def pass_over(loaded: Loaded) -> float:
    """Return the seconds of one forward pass over all pictures."""
    assembly = assemble(loaded.recipe)
    every = np.arange(len(assembly.manifest.labels))
    batches = evaluation_batches(assembly.manifest, every, assembly.input, loaded.recipe)
    return seconds(lambda: predict(assembly.adapted.model, batches, assembly.input, assembly.device, "float32"))


def run(loaded: Loaded, root: Path) -> float:
    """Return the seconds of a whole run; nothing was computed before."""
    shutil.rmtree(root / "data.cache", ignore_errors=True)
    return seconds(lambda: start(loaded, root))


def start(loaded: Loaded, root: Path) -> float:
    """Do a run anew, and return the images a second of its training."""
    shutil.rmtree(root / "results", ignore_errors=True)
    run_dir = start_run(loaded, root / "results", "medpeft finetune …")
    return float(json.loads((run_dir / "record.json").read_text())["timing"]["images_per_second"])


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield whole runs of linear probing in forward passes, and what features are worth to a partial training."""
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as folder:
        root = Path(folder)
        make_dataset(root, options.images)
        recipe = partial(recipe_of, options, root)
        once = recipe("linear", epochs=1, augment=PLAIN)
        pass_over(once)  # warms up
        for loaded, what, target in (
            (
                recipe("linear", epochs=options.epochs, trials=options.trials, augment=PLAIN),
                f"{options.trials} rates and the run, {options.epochs} epochs each, no augmentation",
                TARGET,
            ),
            (
                recipe("linear", epochs=options.epochs, augment={"views": 2}),
                f"{options.epochs} epochs of 2 views",
                None,
            ),
        ):
            ours, other = zip(*((run(loaded, root), pass_over(once)) for _ in range(options.repeats)), strict=True)
            name = f"linear probing of {options.backbone}, {what}, in forward passes"
            yield compare("frozen", name, "s", ours, other, at_most=target)
        last = recipe("partial", epochs=1, augment=PLAIN)
        start(last, root)
        ours, other = [], []
        for _ in range(options.repeats):
            ours.append(start(last, root))
            with patch.object(classify, "frozen_part", lambda *_: None):
                other.append(start(last, root))
        yield compare("frozen", f"{options.backbone} partial, on features beside on pictures", "images/s", ours, other)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--images", type=int, help="for training; half as many more for validation and test")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(words)
    options.images = options.images or (20_000 if pick_device(options.device).type == "cuda" else 900)
    return options


def main() -> None:
    """Print the rows."""
    console.quiet = True
    for row in rows(arguments()):
        print(row, flush=True)


if __name__ == "__main__":
    main()
