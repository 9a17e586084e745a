"""Peak memory of training: as `finetune --dry-run --memory` predicts it, beside what the record says; run by hand.

    python -m benchmarks.memory

SSF on a small ViT and a small ResNet with random weights, two epochs on the demo's pictures; every prediction and every run is a
process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, compare, show

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "micro batch 64": [],
    "micro batch 16": ["train.micro_batch_size=16"],
    "bfloat16": ["train.precision=bfloat16"],
    "checkpointing": ["train.gradient_checkpointing=true"],
}
SHORT = [
    "backbone.weights=random", "backbone.input.size=128", "data.k_shot=12", "train.epochs=2", "train.batch_size=64",
    "train.micro_batch_size=64", "workers=2",
]  # fmt: skip


def medpeft(folder: Path, *words: str) -> dict[str, Any]:
    """Run `medpeft finetune` on the demo in a folder and return what it prints."""
    command = [sys.executable, "-m", "medpeft_cli", "finetune", str(ROOT / "recipes/isic_ssf.yaml"), "--demo"]
    done = subprocess.run([*command, "--quiet", "--json", *words], cwd=folder, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def measured(folder: Path, what: str, settings: list[str]) -> Row:
    """Return the predicted peak over the real one, in MiB."""
    words = [word for setting in SHORT + settings for word in ("--set", setting)]
    predicted = medpeft(folder, *words, "--dry-run", "--memory")["memory"]
    run = medpeft(folder, *words, "--no-evaluate")["run"]
    real = json.loads((folder / run / "record.json").read_text())["memory"]
    assert predicted["measure"] == real["measure"]
    peaks = ([memory["peak_bytes"] / 2**20] for memory in (predicted, real))
    return compare("memory", f"{what}: predicted / real peak", "MiB", *peaks, at_least=0.85, at_most=1.15)


def rows(options: argparse.Namespace) -> list[Row]:
    """Return a row for each backbone and setting."""
    with tempfile.TemporaryDirectory() as folder:
        medpeft(Path(folder), "--dry-run")  # makes the pictures
        return [
            measured(Path(folder), f"{name}, {what}", [f"backbone.name={name}", *settings])
            for name in options.backbones
            for what, settings in SETTINGS.items()
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*", default=["vit_tiny_patch16_224", "resnet18"])
    print(show(rows(parser.parse_args())))


if __name__ == "__main__":
    main()
