"""The same training as a user runs it: with medpeft, with Hugging Face Trainer + peft, and with timm's own training loop.

    python -m benchmarks.peers [--cells lora full linear probe …] [--images 512] [--batch 64] [--repeats 2]

All start from the same folders of 600 × 450 JPEGs, train the same network at 96 px with random crops and flips, AdamW and the
same batch, and score the validation split after every epoch. Ours is `medpeft prepare` and then `medpeft finetune`, into fresh
folders. The peers read through timm's ImageDataset and its transforms (torchvision's) in as many worker processes as there are
cores, which they keep. Seconds are of whole processes from their start, and the contenders take turns. `probe` is linear probing without
augmentation, for twenty epochs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, compare, in_process, make_jpegs
from medpeft_cli.runs.environment import cores

PIXELS, RATE, LORA_RANK = 96, 1e-3, 16
SPLITS = ("train", "val", "test")
CARD = {
    "name": "peers", "title": "Peers", "modality": "test", "classes": ["a", "b"],
    "layout": {"kind": "class_folders", "splits": {name: name for name in SPLITS}},
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    peer: str  # a key of PEERS
    backbone: str
    method: str
    faster: float  # target: so many times the peer's images/s; above 1 where reading bounds the peer
    epochs: int = 5
    augment: bool = True


CELLS = {
    "lora": Cell("Trainer + peft", "vit_tiny_patch16_224", "lora", 1),
    "lora-small": Cell("Trainer + peft", "test_vit", "lora", 2),
    "full": Cell("timm", "resnet10t", "full", 2),
    "linear": Cell("timm", "resnet10t", "linear", 2),
    "probe": Cell("timm", "resnet10t", "linear", 10, epochs=20, augment=False),
}


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield for each cell the seconds up to each epoch, and the images a second: of epochs after the first, or of a whole probe."""
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as folder:
        root = Path(folder)
        made = 0
        for split, count in zip(SPLITS, (options.images, options.images // 8, 8)):
            made += len(make_jpegs(root / "jpegs" / split, count, made))
        (root / "peers.yaml").write_text(json.dumps(CARD))
        for name in options.cells:
            cell = CELLS[name]
            turns = [(ours(root, name, options), peers(root, name, options)) for _ in range(options.repeats)]
            mine, its = (list(zip(*who)) for who in zip(*turns))  # seconds: epoch, repeat
            what = f"{cell.backbone} {cell.method}{'' if cell.augment else ' without augmentation'}, beside {cell.peer}"
            for epoch in sorted({*range(5), cell.epochs - 1}):
                yield compare("peers", f"{what}: start to epoch {epoch + 1}", "s", mine[epoch], its[epoch], at_most=1)
            first = 1 if cell.augment else 0  # what is computed once belongs to a probe's work
            work = (cell.epochs - first) * options.images
            rates = [
                [work / (end - (begun if first else 0.0)) for begun, end in zip(who[0], who[-1])] for who in (mine, its)
            ]
            done = f"epochs 2 to {cell.epochs}" if first else f"all {cell.epochs} epochs from the start"
            yield compare("peers", f"{what}: {done}", "images/s", *rates, at_least=cell.faster)


def ours(root: Path, name: str, options: argparse.Namespace) -> list[float]:
    """Return the seconds after each epoch of `medpeft prepare` and `medpeft finetune`, in fresh folders."""
    cell, folder = CELLS[name], root / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    recipe = {
        "task": "classify",
        "data": {"card": str(root / "peers.yaml"), "root": str(folder / "data")},
        "backbone": {"name": cell.backbone, "weights": "random", "input": {"size": PIXELS}},
        "method": {"name": cell.method} | ({"rank": LORA_RANK, "alpha": LORA_RANK} if cell.method == "lora" else {}),
        "train": {"epochs": cell.epochs, "batch_size": options.batch, "micro_batch_size": options.batch, "lr": RATE},
        "augment": {} if cell.augment else {"crop_scale": None, "horizontal_flip": 0},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    started = time.time()
    prepare = ["prepare", root / "peers.yaml", "--source", root / "jpegs", "--root", folder / "data", "--quiet"]
    subprocess.run([sys.executable, "-m", "medpeft_cli", *map(str, prepare)], check=True, stdout=subprocess.DEVNULL)
    return in_process("benchmarks.peers", "--only", "ours", "--cells", name, "--root", folder, "--started", started)


def peers(root: Path, name: str, options: argparse.Namespace) -> list[float]:
    """Return the seconds after each epoch of the peer's process."""
    words = ["--cells", name, "--root", root / "jpegs", "--batch", options.batch, "--started", time.time()]
    return in_process("benchmarks.peers", "--only", "peer", *words)


# --- what each process does: append the seconds since it was started to `clock` after each epoch


def train_ours(cell: Cell, options: argparse.Namespace, clock: "Clock") -> None:
    """Run `medpeft finetune`, which calls us after each epoch as it would a tracker."""
    from medpeft_cli.cli import main
    from medpeft_cli.runs.record import Record

    Record.follow = staticmethod(lambda entry: clock())
    sys.argv = [
        "medpeft",
        "finetune",
        str(options.root / "recipe.yaml"),
        "--results",
        str(options.root / "results"),
        "--quiet",
    ]
    main()


def train_with_trainer(cell: Cell, options: argparse.Namespace, clock: "Clock") -> None:
    """Hugging Face Trainer on peft's LoRA."""
    from medpeft_cli import compat  # noqa: F401  (before timm; makes torchvision importable beside a CPU-only torch)

    # isort: split
    import timm
    import torch
    from peft import LoraConfig, get_peft_model
    from timm.data import ImageDataset, create_transform
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = timm.create_model(cell.backbone, num_classes=2, img_size=PIXELS)

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.network(pixels)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Tell(TrainerCallback):
        def on_evaluate(self, *_: Any, **__: Any) -> None:
            clock()

    def collate(pairs: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        return {
            "pixels": torch.stack([image for image, _ in pairs]),
            "labels": torch.tensor([label for _, label in pairs]),
        }

    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=["qkv"], modules_to_save=["head"])
    training, scoring = (
        ImageDataset(
            options.root / split,
            transform=create_transform(PIXELS, is_training=split == "train", **transforms(cell, split)),
        )
        for split in ("train", "val")
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=options.batch, per_device_eval_batch_size=128, num_train_epochs=cell.epochs,
            learning_rate=RATE, lr_scheduler_type="cosine", eval_strategy="epoch", save_strategy="no", logging_strategy="epoch",
            dataloader_num_workers=cores(), max_grad_norm=0, dataloader_persistent_workers=True, report_to=[], disable_tqdm=True,
            remove_unused_columns=False, label_names=["labels"],
        )  # fmt: skip
        Trainer(
            get_peft_model(Classifier(), lora), arguments, collate, training, scoring, callbacks=[Tell()],
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        ).train()  # fmt: skip


def train_with_timm(cell: Cell, options: argparse.Namespace, clock: "Clock") -> None:
    """The pattern of timm's train.py: its loaders, its optimiser, one loop an epoch, then a loop of validation."""
    from medpeft_cli import compat  # noqa: F401  (before timm)

    # isort: split
    import timm
    import torch
    from timm.data import ImageDataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter, accuracy

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(cell.backbone, num_classes=2).to(device)
    if cell.method == "linear":
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    optimiser = create_optimizer_v2(
        [p for p in model.parameters() if p.requires_grad], "adamw", lr=RATE, weight_decay=1e-4
    )
    training, scoring = (
        create_loader(
            ImageDataset(options.root / split), PIXELS, options.batch if split == "train" else 128, split == "train",
            num_workers=cores(), device=device, use_prefetcher=device.type == "cuda", **transforms(cell, split),
        )
        for split in ("train", "val")
    )  # fmt: skip
    for _ in range(cell.epochs):
        model.train(cell.method != "linear")  # ours holds what is frozen, too
        losses, hits = AverageMeter(), AverageMeter()
        for images, labels in training:
            images, labels = images.to(device), labels.to(device)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.update(loss.item(), len(images))
        model.eval()
        with torch.inference_mode():
            for images, labels in scoring:
                hits.update(accuracy(model(images.to(device)), labels.to(device))[0].item(), len(images))
        clock()


def transforms(cell: Cell, split: str) -> dict[str, Any]:
    """Return the options of timm's transforms that do what our defaults do."""
    if split == "train" and cell.augment:
        return {
            "scale": (0.5, 1.0),
            "ratio": (0.75, 1.3333),
            "hflip": 0.5,
            "color_jitter": None,
            "interpolation": "bicubic",
        }
    return {"interpolation": "bicubic", "crop_pct": 0.875} | ({"no_aug": True} if split == "train" else {})


PEERS = {"Trainer + peft": train_with_trainer, "timm": train_with_timm}


class Clock:
    """Seconds since the first process was started, each time it is called."""

    def __init__(self, started: float):
        self.started, self.seconds = started, []

    def __call__(self) -> None:
        self.seconds.append(time.time() - self.started)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", choices=tuple(CELLS), default=list(CELLS))
    parser.add_argument("--images", type=int, default=512, help="of the training split")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=("ours", "peer"), help="train as one of them; for its own use")
    parser.add_argument("--root", type=Path, help="folder for --only")
    parser.add_argument("--started", type=float, help="for --only")
    return parser.parse_args(words)


def main() -> None:
    """Print the rows, or what one process has measured for them."""
    options = arguments()
    if not options.only:
        for row in rows(options):
            print(row, flush=True)
        return
    cell, clock = CELLS[options.cells[0]], Clock(options.started)
    try:
        (train_ours if options.only == "ours" else PEERS[cell.peer])(cell, options, clock)
    finally:
        print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
