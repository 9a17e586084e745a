"""How long a user waits for `medpeft sweep` with many records, beside the import of torch that none of it may need; run by hand.

    python benchmarks/sweep.py [--runs 1000] [--repeats 5]

It writes a grid and records of the usual size in a temporary folder: nine of ten runs finished, the others failed. Each command is
a process of its own; they take turns, and medians are printed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medpeft_cli.recipe.grid import Cell, expand
from medpeft_cli.recipe.identity import cell as cell_hash
from medpeft_cli.recipe.identity import identity
from medpeft_cli.runs.environment import cores

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("full", "linear", "bias", "norm", "lora")
TRIALS = 8
MEASURES = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auroc_ovr", "loss")


def write_record(cell: Cell, folder: Path, status: str) -> None:
    """Write what a run of ISIC leaves: a searched rate, seven classes, two splits."""
    value = {"value": 0.8765432109876543, "low": 0.8512345678901234, "high": 0.9012345678901234}
    split = {
        "n": 1252,
        "overall": dict.fromkeys(MEASURES, value),
        "per_class": {str(label): dict.fromkeys(("f1", "precision", "recall", "auroc"), value) for label in range(7)},
        "confusion": [[17] * 7] * 7,
    }
    trial = {"state": "finished", "values": {"train.lr": 0.000312}, "value": 0.876543, "seconds": 412.5}
    data = {
        "schema_version": 1, "results_revision": 1, "id": cell.run, "identity": identity(cell.recipe),
        "cell": cell_hash(cell.recipe), "status": status, "demo": False, "command": cell.command(folder),
        "recipe": cell.recipe.model_dump(mode="json"), "error": "RunError: out of memory" if status == "failed" else None,
        "timing": {"search_seconds": 3300.0, "train_seconds": 412.5, "eval_seconds": 7.25, "images_per_second": 546.1},
        "search": {"seconds": 3300.0, "trials": [{"number": number} | trial for number in range(TRIALS)]},
        "metrics": {"val": split, "test": split},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(data, indent=1))


def seconds(words: list[str], folder: Path) -> float:
    """Return how long a process takes."""
    start = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    python, medpeft = [sys.executable], [sys.executable, "-m", "medpeft_cli"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        seeds = list(range(arguments.runs // (2 * len(METHODS))))
        recipes = f"recipes/isic_{{{','.join(METHODS)}}}.yaml"
        (folder / "grid.yaml").write_text(
            f"recipes: ['{recipes}']\nmatrix: {{data.fraction: [0.1, 1], seed: {seeds}}}\n"
        )
        os.chdir(folder)
        cells = expand(Path("grid.yaml"))
        failed = [(cell, cell.run_dir(folder / "results")) for cell in cells[9::10]]
        for cell in cells:
            write_record(cell, cell.run_dir(folder / "results"), "finished")
        size = statistics.median(path.stat().st_size for path in folder.glob("results/*/*/record.json"))
        _, _, *run = cells[0].command(Path("results")).split()
        works = {
            "import torch": [*python, "-c", "import torch"],
            "status RESULTS": [*medpeft, "sweep", "status", "results"],
            "status GRID": [*medpeft, "sweep", "status", "grid.yaml"],
            "plan GRID": [*medpeft, "sweep", "plan", "grid.yaml"],
            "retry --failed": [*medpeft, "sweep", "retry", "grid.yaml", "--failed"],
            "a finished run": [*medpeft, "finetune", *run],
        }
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(arguments.repeats + 1):
            for cell, run_dir in failed:
                shutil.rmtree(run_dir)
                write_record(cell, run_dir, "failed")
            for name, words in works.items():
                taken = seconds(words, folder)
                if turn:  # the first fills the caches
                    found[name].append(taken)
    median = {name: statistics.median(values) for name, values in found.items()}
    print(f"{cores()} processors, load {os.getloadavg()[0]:.1f}")
    print(f"{len(cells):,} runs, {len(failed):,} of them failed, records of {size:,.0f} bytes")
    for name, taken in median.items():
        print(f"  {name:16} {taken:6.2f} s {taken / median['import torch']:6.2f} × import torch")
    for name, limit in (("status RESULTS", 1), ("status GRID", 1), ("a finished run", 3)):
        print(f"  {name}: {median[name]:.2f} s (limit {limit} s) {'ok' if median[name] < limit else 'MISSED'}")


if __name__ == "__main__":
    main()
