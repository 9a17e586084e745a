"""What linear probing costs beside forward passes over the data, and what the features of frozen parts save of other trainings.

    python -m benchmarks.frozen [--backbone vit_tiny_patch16_224] [--pixels 224] [--images 900] [--epochs 20] [--trials 8] [--repeats 2]

A forward pass reads every picture of the dataset (training, validation, test) once, as evaluation does. Linear probing is a whole
run, on a dataset that nothing was computed from: a search of the learning rate, the training, the test split, the record.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.finetune import make_dataset
from benchmarks.measure import Row, compare, seconds, show
from medpeft_cli.console import console
from medpeft_cli.engine.assembly import assemble, pick_device
from medpeft_cli.engine.predict import evaluation_batches, predict
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.start import start_run

PART = "frozen"
PLAIN = {"crop_scale": None, "horizontal_flip": 0.0}
TARGET = 1.2


def recipe_of(options: argparse.Namespace, root: Path, *, epochs: int, trials: int, augment: dict) -> ClassifyRecipe:
    """Return a recipe of linear probing."""
    space = {"trials": trials, "space": {"train.lr": {"log": [1e-4, 1e-1]}}} if trials else {}
    return ClassifyRecipe.model_validate({
        "task": "classify",
        "data": {"card": str(root / "bench.yaml"), "root": root / "data"},
        "backbone": {"name": options.backbone, "weights": "random", "input": {"size": options.pixels}},
        "method": {"name": "linear"},
        "train": {"epochs": epochs, "batch_size": 128, "select": "loss"},
        "augment": augment,
        "search": space,
        "device": options.device,
    })  # fmt: skip


def pass_over(recipe: ClassifyRecipe) -> float:
    """Return the seconds of one forward pass over all pictures."""
    assembly = assemble(recipe)
    every = np.arange(len(assembly.manifest.labels))
    batches = evaluation_batches(assembly.manifest, every, assembly.input, recipe)
    return seconds(lambda: predict(assembly.adapted.model, batches, assembly.input, assembly.device, "float32"))


def run(recipe: ClassifyRecipe, root: Path) -> float:
    """Return the seconds of a whole run; nothing was computed before."""
    for name in ("data.cache", "results"):
        shutil.rmtree(root / name, ignore_errors=True)
    return seconds(lambda: start_run(Loaded(recipe, root / "bench.yaml", {}), root / "results", "medpeft finetune …"))


def rows(options: argparse.Namespace) -> list[Row]:
    """Return whole runs of linear probing in forward passes."""
    found = []
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as folder:
        root = Path(folder)
        make_dataset(root, options.images)
        once = recipe_of(options, root, epochs=1, trials=0, augment=PLAIN)
        plain = recipe_of(options, root, epochs=options.epochs, trials=options.trials, augment=PLAIN)
        views = recipe_of(options, root, epochs=options.epochs, trials=0, augment={"views": 4})
        pass_over(once)  # warms up
        for recipe, what, target in (
            (plain, f"{options.trials} rates and the run, {options.epochs} epochs each, no augmentation", TARGET),
            (views, f"a run of {options.epochs} epochs, augment.views 4", None),
        ):
            ours, other = zip(*((run(recipe, root), pass_over(once)) for _ in range(options.repeats)), strict=True)
            found.append(
                compare(
                    PART,
                    f"linear probing of {options.backbone}, {what}, in forward passes",
                    "s",
                    ours,
                    other,
                    at_most=target,
                )
            )
    return found


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
    print(show(rows(arguments())))


if __name__ == "__main__":
    main()
