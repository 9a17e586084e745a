"""How long a user waits for `medpeft`, beside the import of torch that the light commands must not need.

    python -m benchmarks.startup [--repeats 5] [--runs 100]

Each command is a process of its own; they take turns, the first turn is not counted. The first training step of a demo is timed
from the start of the process to its checkpoint; its pictures and latents are there. Beside it stands also what the libraries alone
take that no training does without. The results folder holds records of the usual size.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Row, compare, take_turns
from benchmarks.sweep import METHODS, ROOT, write_record
from medpeft_cli.recipe.grid import expand

MEDPEFT = [sys.executable, "-m", "medpeft_cli"]
LIGHT = {
    "--help": ["--help"],
    "list methods": ["list", "methods"],
    "validate RECIPE": ["validate", "recipes/isic_ssf.yaml"],
    "sweep status RESULTS": ["sweep", "status", "results"],
    "report RESULTS": ["report", "results"],
}
DEMOS = ["isic_ssf", "isic_lora", "mimic_bias"]
BASE = "import torch"
LIBRARIES = "import medpeft_cli.compat, timm, torch; torch.optim.AdamW([torch.zeros(1, requires_grad=True)])"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(words: list[str], folder: Path) -> None:
    """Run a process to its end."""
    subprocess.run(words, cwd=folder, check=True, capture_output=True, env=ENVIRONMENT)


def first_step(recipe: str, folder: Path) -> None:
    """Start a demo, and end it when its first step is on disk."""
    results = folder / "first"
    options = ["--demo", "--results", str(results), "--set", "train.checkpoint_seconds=0", "--quiet"]
    process = subprocess.Popen([*MEDPEFT, "finetune", f"recipes/{recipe}.yaml", *options], cwd=folder, env=ENVIRONMENT)
    try:
        while not any(results.glob("*/*/checkpoint/last.pt")):
            if process.poll() is not None:
                raise RuntimeError(f"{recipe} ended before its first step")
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(results, ignore_errors=True)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each command and demo, over the import of torch."""
    with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        grid, seeds = folder / "grid.yaml", list(range(options.runs // len(METHODS)))
        grid.write_text(f"recipes: ['recipes/isic_{{{','.join(METHODS)}}}.yaml']\nmatrix: {{seed: {seeds}}}\n")
        for cell in expand(grid):
            write_record(cell, cell.run_dir(folder / "results"), "finished")
        works: dict[str, Callable[[], None]] = {
            code: partial(run, [sys.executable, "-c", code], folder) for code in (BASE, LIBRARIES)
        }
        works |= {what: partial(run, [*MEDPEFT, *words], folder) for what, words in LIGHT.items()}
        works |= {f"first step of {demo}": partial(first_step, demo, folder) for demo in options.demos}
        taken = take_turns(options.repeats, **works)
        base, libraries = taken.pop(BASE), taken.pop(LIBRARIES)
        for what, seconds in taken.items():
            yield compare("startup", f"{what} / {BASE}", "s", seconds, base, at_most=1.0 if what in LIGHT else None)
        for demo in options.demos:
            what = f"first step of {demo}"
            yield compare("startup", f"{what} / import torch, timm, build AdamW", "s", taken[what], libraries)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100, help="records in the results folder")
    parser.add_argument("--demos", nargs="*", default=DEMOS)
    return parser.parse_args(words)


def main() -> None:
    """Print the rows."""
    for row in rows(arguments()):
        print(row, flush=True)


if __name__ == "__main__":
    main()
