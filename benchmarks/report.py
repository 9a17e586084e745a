"""What a report of 1,000 runs takes; target: terminal, LaTeX and CSV under 3 s, the page with its figures under 20 s. Run by hand.

    python -m benchmarks.report [SHAPE …] [--skip-page]

It writes records with histories and predictions into a temporary folder, runs `medpeft report` on them as a user would, start of
Python included, and prints the seconds and the size of the page.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tests.report.conftest import build, put
from tests.report.run_folder import cost, fill

METHODS = ["full", "linear", "attention", "bias", "lora", "ssf", "adaptformer", "norm", *(f"m{i}" for i in range(12))]
COMMANDS = {"terminal": [], "latex and csv": ["--latex", "--csv"], "page": ["--html"]}


def runs(datasets: int, backbones: int, methods: int, seeds: int) -> Iterator[dict[str, Any]]:
    for d, b, m, seed in product(range(datasets), range(backbones), METHODS[:methods], range(seeds)):
        yield {"dataset": f"d{d}", "backbone": f"vit_{b}", "method": m, "seed": seed}


def variants(datasets: int, rates: int, *, same: bool = True) -> Iterator[dict[str, Any]]:
    for d, rate in product(range(datasets), range(rates)):
        yield {"dataset": f"d{d}", "recipe": {"train": {"lr": 1e-5 * (1 + rate + (0 if same else rates * d))}}}


def low_data(datasets: int, seeds: int) -> Iterator[dict[str, Any]]:
    for d, share, m, seed in product(range(datasets), (0.01, 0.05, 0.1, 0.5, 1.0), METHODS[:10], range(seeds)):
        yield {"dataset": f"d{d}", "fraction": share, "method": m, "seed": seed}


SHAPES: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "5 datasets x 3 backbones x 8 methods x 8 seeds": lambda: runs(5, 3, 8, 8),
    "50 datasets x 20 methods": lambda: runs(50, 1, 20, 1),
    "1,000 datasets": lambda: runs(1000, 1, 1, 1),
    "10 datasets x 5 fractions x 10 methods x 2 seeds": lambda: low_data(10, 2),
    "10 datasets x 100 learning rates": lambda: variants(10, 100),
    "10 datasets, each x 100 learning rates of its own": lambda: variants(10, 100, same=False),
    "1,000 learning rates": lambda: variants(1, 1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help="words of the shapes to run; default: all")
    parser.add_argument("--skip-page", action="store_true")
    arguments = parser.parse_args()
    chance = random.Random(0)
    for shape, described in SHAPES.items():
        if arguments.shapes and not any(words in shape for words in arguments.shapes):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            records = [build(value=round(chance.uniform(0.5, 0.95), 4), **run, **cost()) for run in described()]
            results = fill(put(Path(temporary) / "results", *records))
            for name, options in COMMANDS.items():
                if name == "page" and arguments.skip_page:
                    continue
                started = time.perf_counter()
                command = [sys.executable, "-m", "medpeft_cli", "report", str(results), *options]
                subprocess.run(command, check=True, capture_output=True)
                print(f"{shape:50} {len(records):5} runs {name:14} {time.perf_counter() - started:6.2f} s", flush=True)
            page = results / "report" / "index.html"
            if page.is_file():
                print(f"{shape:50} page {page.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
