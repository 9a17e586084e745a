"""medpeft's training beside a bare PyTorch loop on tensors that are in memory already: images a second, and peak memory.

    python -m benchmarks.finetune [--backbones vit_tiny_patch16_224 resnet18] [--methods full linear …] [--pixels 224]
                                  [--images 48] [--batch 24] [--micro-batch 12] [--precision float32] [--device auto] [--repeats 4]

Ours is the training line of `medpeft finetune`: the prepared dataset is read, augmented by default and normalised while the
loop runs. The bare loop trains a copy of the same adapted model on one batch that it has in memory, normalised; same
precision, same accumulation, AdamW. In one process the two take turns, epoch by epoch, the first epochs not counted; there
is no validation. Peak memory is of each alone in a process of its own.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.measure import Row, compare, in_process
from medpeft_cli.console import console
from medpeft_cli.data.card import load_card
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.prepare import write_dataset
from medpeft_cli.engine.assembly import assemble, pick_device
from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.classify import ClassifyTask
from medpeft_cli.engine.loop import DTYPES, autocast, fit
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.methods.adapt import Adapted, hold_norms
from medpeft_cli.recipe.schema import ClassifyRecipe

METHODS = ("full", "linear", "bias", "ssf", "lora", "adaptformer", "tsa")
UNFIT = {"adaptformer": "resnet", "tsa": "vit"}  # method → beginning of the names of backbones that it is not for
SMALL = {
    "backbones": ["vit_tiny_patch16_224", "resnet18"], "pixels": 224, "images": 48, "batch": 24, "micro_batch": 12,
    "precision": "float32",
}  # fmt: skip
LARGE = {
    "backbones": ["vit_base_patch16_224", "resnet50"], "pixels": 224, "images": 2048, "batch": 512, "micro_batch": 128,
    "precision": "bfloat16",
}  # fmt: skip
MEMORY_METHODS = ("full", "lora")
SPEED, MEMORY = 0.95, 1.05  # targets


class Timed(ClassifyTask):
    """Classification without a validation, which the bare loop has not either."""

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        return {"loss": 0.0}


class Bare:
    """The least that trains: the shares of one step are in memory, and every step takes them."""

    def __init__(self, adapted: Adapted, task: ClassifyTask):
        recipe = task.recipe
        self.model, self.precision, self.device = adapted.model, recipe.train.precision, task.device
        self.steps = task.plan.steps_per_epoch
        self.shares = [micro.batch for micro in task.micro_batches(0, 0) if micro.step == 0]
        self.optimiser = torch.optim.AdamW(
            [parameter for _, parameter in adapted.trainable()],
            lr=recipe.train.lr,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.model.train()
        hold_norms(adapted)

    def epoch(self) -> None:
        for _ in range(self.steps):
            for images, targets, count in self.shares:
                with autocast(self.device, self.precision):
                    loss = functional.cross_entropy(self.model(images).float(), targets, reduction="sum") / count
                loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


def make_dataset(root: Path, images: int) -> None:
    """Write a prepared dataset of noise, 341 × 256 pixels each as `prepare` packs 600 × 450; two thirds are for training."""
    card = {
        "name": "bench",
        "title": "Bench",
        "modality": "test",
        "classes": list("ab"),
        "layout": {"kind": "class_folders"},
    }
    (root / "bench.yaml").write_text(json.dumps(card))
    samples = [Sample(str(number), f"{number}.jpg", "ab"[number % 2], str(number)) for number in range(images * 3 // 2)]

    def read(sample: Sample) -> np.ndarray:
        return np.random.default_rng(int(sample.id)).integers(0, 256, (256, 341, 3), dtype=np.uint8)

    write_dataset(root / "data", load_card(str(root / "bench.yaml")), samples, read)


def prepared(options: argparse.Namespace, root: Path, backbone: str, method: str) -> tuple[Adapted, Timed]:
    """Return the adapted model, in training mode, and its task."""
    recipe = ClassifyRecipe.model_validate({
        "task": "classify",
        "data": {"card": str(root / "bench.yaml"), "root": root / "data", "k_shot": options.images // 2},
        "backbone": {"name": backbone, "weights": "random", "input": {"size": options.pixels}},
        "method": {"name": method},
        "train": {
            "epochs": options.repeats + 1, "batch_size": options.batch, "micro_batch_size": options.micro_batch,
            "precision": options.precision, "select": "loss", "checkpoint_seconds": 1e9,
        },
        "device": options.device,
    })  # fmt: skip
    assembly = assemble(recipe)
    return assembly.adapted, Timed(assembly, root)


def train_ours(adapted: Adapted, task: Timed, **listeners: Any) -> dict[str, Any]:
    """Run the training line and return its peak memory."""
    recipe = task.recipe
    with tempfile.TemporaryDirectory() as folder:
        _, _, memory = fit(adapted, task, recipe.train, 0, task.device, Checkpoint(Path(folder)), **listeners)
    return memory


def rates(adapted: Adapted, task: Timed) -> tuple[list[float], list[float]]:
    """Return images a second of our epochs, and of the bare loop's that followed each; the first are not counted."""
    bare = Bare(copy.deepcopy(adapted), task)
    images, steps = len(task.train_indices), task.plan.steps_per_epoch
    ours, other = [], []
    begun, done = time.perf_counter(), 0

    def advance(count: int, **_: Any) -> None:
        nonlocal done
        done += count
        if count and done % steps == 0:
            wait(task.device)
            ours.append(images / (time.perf_counter() - begun))

    def follow(entry: dict[str, Any]) -> None:
        nonlocal begun
        start = time.perf_counter()
        bare.epoch()
        wait(task.device)
        begun = time.perf_counter()
        other.append(images / (begun - start))

    train_ours(adapted, task, advance=advance, follow=follow)
    return ours[1:], other[1:]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(options: argparse.Namespace, root: Path, backbone: str, method: str) -> int:
    """Return the peak bytes of this process while it trains, ours or bare; on a CPU all that is resident."""
    adapted, task = prepared(options, root, backbone, method)
    if options.only == "ours":
        return train_ours(adapted, task, advance=lambda count, **_: None)["peak_bytes"]
    bare = Bare(adapted, task)
    memory = PeakMemory(task.device)
    for _ in range(options.repeats + 1):
        bare.epoch()
    return int(memory.read()["peak_bytes"])


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row of speed for each backbone and method, and of memory for some methods."""
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as folder:
        make_dataset(Path(folder), options.images)
        for backbone in options.backbones:
            for method in options.methods:
                if backbone.startswith(UNFIT.get(method, "-")):
                    continue
                what = f"{backbone} {method}, {options.pixels} px, {options.precision}"
                ours, other = rates(*prepared(options, Path(folder), backbone, method))
                yield compare("finetune", f"speed of {what}", "images/s", ours, other, at_least=SPEED)
                if method in MEMORY_METHODS:
                    sizes = [alone(options, folder, backbone, method, who) / 2**20 for who in ("ours", "bare")]
                    ours, other = ([size] for size in sizes)
                    yield compare("finetune", f"peak memory of {what}", "MiB", ours, other, at_most=MEMORY)


def alone(options: argparse.Namespace, folder: str, backbone: str, method: str, who: str) -> int:
    """Return the peak bytes of a process that does nothing but train."""
    words = ["--only", who, "--root", folder, "--backbones", backbone, "--methods", method]
    for name in ("pixels", "images", "batch", "micro_batch", "precision", "device"):
        words += [f"--{name.replace('_', '-')}", getattr(options, name)]
    return in_process("benchmarks.finetune", *words, "--repeats", 1)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is not given suits the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--pixels", type=int)
    parser.add_argument("--images", type=int, help="of an epoch; even")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--precision", choices=tuple(DTYPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--only", choices=("ours", "bare"), help="print the peak of one of them; for its own use")
    parser.add_argument("--root", type=Path, help="of the dataset, for --only")
    options = parser.parse_args(words)
    for name, value in (LARGE if pick_device(options.device).type == "cuda" else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Print the rows, or what one process has measured for them."""
    options = arguments()
    console.quiet = True
    if options.only:
        print(peak(options, options.root, options.backbones[0], options.methods[0]))
    else:
        for row in rows(options):
            print(row, flush=True)


if __name__ == "__main__":
    main()
