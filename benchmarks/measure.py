"""What the benchmarks share: works that take turns, rows of ratios, their table."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Row:
    """One comparison: ours / other, repeat by repeat.

    Attributes:
        part: of the benchmark.
        what: was measured.
        unit: of `ours` and `other`.
        ours: median.
        other: median of what it is compared with.
        ratio: median of ours / other over the repeats.
        low: least ratio of a repeat.
        high: largest.
        at_least: target of the ratio where more is better; None = none.
        at_most: target where less is better; None = none.
    """

    part: str
    what: str
    unit: str
    ours: float
    other: float
    ratio: float
    low: float
    high: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the median ratio reaches the target; true where there is none."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    def __str__(self) -> str:
        """Return the row as a line for the terminal."""
        part, what, ratio, spread, target, ours, other, unit = self.cells()
        return f"{part}: {what}: {ratio}{spread and f' ({spread})'}{target and ', target ' + target}; {ours} against {other} {unit}"

    def cells(self) -> list[str]:
        """Return the row as texts, in the order of `HEADER`."""
        target = "" if self.target is None else self.target + ("" if self.met else " missed")
        spread = "" if self.low == self.high else f"{self.low:.3f}–{self.high:.3f}"  # none of a single repeat
        numbers = [f"{self.ratio:.3f}", spread]
        return [self.part, self.what, *numbers, target, f"{self.ours:,.4g}", f"{self.other:,.4g}", self.unit]

    @property
    def target(self) -> str | None:
        """The target in words."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g}–{self.at_most:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return None if self.at_most is None else f"≤ {self.at_most:g}"


HEADER = ("part", "what", "ratio", "min–max", "target", "ours", "other", "unit")


def compare(
    part: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    other: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Return the row of repeats that took turns: the n-th of ours ran beside the n-th of the other.

    Args:
        part: of the benchmark.
        what: was measured.
        unit: of the values.
        ours: one value a repeat.
        other: as many.
        at_least: target of ours / other where more is better.
        at_most: target where less is better.
    """
    ratios = [mine / its for mine, its in zip(ours, other, strict=True)]
    return Row(
        part, what, unit, statistics.median(ours), statistics.median(other),
        statistics.median(ratios), min(ratios), max(ratios), at_least, at_most,
    )  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(repeats: int, **works: Callable[[], object]) -> dict[str, list[float]]:
    """Return name → seconds of each repeat; the works take turns, the first turn is not counted.

    Whatever else the machine does then slows all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            taken = seconds(work)
            if turn:
                found[name].append(taken)
    return found


def in_process(module: str, *words: object) -> Any:
    """Run `python -m MODULE WORDS…` from here and return what its last line of output says, as JSON."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def make_jpegs(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write 600 × 450 JPEGs as large as those of HAM10000 (2.8 GB in 10,015 files), numbered from `first`, in two class folders."""
    paths = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        low = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8)).resize(
            (600, 450), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(low).astype(np.int16) + rng.integers(-36, 37, (450, 600, 1), dtype=np.int16)
        path = folder / "ab"[number % 2] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
        paths.append(path)
    return paths
