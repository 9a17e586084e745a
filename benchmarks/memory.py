"""Peak memory of training: as `medpeft finetune --dry-run --memory` predicts it, beside what the record says.

    python -m benchmarks.memory [--backbones vit_tiny_patch16_224 resnet18] [--method ssf] [--pixels 128] [--device auto]

Random weights, noise for pictures, two epochs. Every prediction and every run is a process of its own. The rows also show what
accumulation, half precision and gradient checkpointing save.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.finetune import make_dataset
from benchmarks.measure import Row, compare

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "as it is": [],
    "micro batch 16": ["train.micro_batch_size=16"],
    "bfloat16": ["train.precision=bfloat16"],
    "gradient checkpointing": ["train.gradient_checkpointing=true"],
}
RECIPE = {
    "task": "classify",
    "data": {"card": "bench.yaml", "root": "data"},
    "train": {"epochs": 2, "batch_size": 64, "micro_batch_size": 64},
    "workers": 2,
}
IMAGES = 128  # of an epoch


def medpeft(folder: Path, *words: str) -> dict[str, Any]:
    """Run `medpeft finetune` in a folder and return what it prints."""
    command = [sys.executable, "-m", "medpeft_cli", "finetune", "recipe.yaml", "--quiet", "--json", *words]
    done = subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return json.loads(done.stdout)


def compared(folder: Path, what: str, settings: list[str]) -> Row:
    """Return the predicted over the real peak of a training."""
    words = [word for setting in settings for word in ("--set", setting)]
    predicted = medpeft(folder, *words, "--dry-run", "--memory")["memory"]
    run = medpeft(folder, *words, "--no-evaluate")["run"]
    real = json.loads((folder / run / "record.json").read_text())["memory"]
    if predicted["measure"] != real["measure"]:
        raise ValueError(f"not comparable: {predicted['measure']} and {real['measure']}")
    peaks = ([memory["peak_bytes"] / 2**20] for memory in (predicted, real))
    return compare("memory", f"predicted peak of {what}", "MiB", *peaks, at_least=0.85, at_most=1.15)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each backbone and setting."""
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as place:
        folder = Path(place)
        make_dataset(folder, IMAGES)
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE | {
            "backbone": {"name": "?", "weights": "random", "input": {"size": options.pixels}},
            "method": {"name": options.method}, "device": options.device,
        }))  # fmt: skip
        for backbone in options.backbones:
            for what, settings in SETTINGS.items():
                name = f"{backbone} {options.method}, {options.pixels} px, {what}"
                yield compared(folder, name, [f"backbone.name={backbone}", *settings])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*", default=["vit_tiny_patch16_224", "resnet18"])
    parser.add_argument("--method", default="ssf")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(words)


def main() -> None:
    """Print the rows."""
    for row in rows(arguments()):
        print(row, flush=True)


if __name__ == "__main__":
    main()
