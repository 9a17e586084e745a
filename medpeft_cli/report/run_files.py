"""What lies beside a record: learning curves, predictions, pictures. Damaged files show nothing; the report goes on."""

import json
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medpeft_cli.errors import DataError
from medpeft_cli.report.records import Run

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

LARGEST = 8192  # pixels of a side that are opened; what the record's folder holds is not ours to trust


class Epoch(NamedTuple):
    """One line of history.jsonl; the numbers that are there and finite."""

    epoch: int
    step: int
    train_loss: float | None
    val: dict[str, float]


class Bin(NamedTuple):
    """Images whose most probable class has a confidence in one of the bins of the ECE: mean of it, share right, number."""

    confidence: float
    accuracy: float
    images: int


def history(run: Run) -> list[Epoch]:
    """Return the validations of a run in order of their step."""
    path = run.folder / "history.jsonl"
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text, parse_constant=lambda _: None)
            val = {name: float(value) for name, value in (line.get("val") or {}).items() if _number(value)}
            loss = line.get("train_loss")
            lines.append(Epoch(int(line["epoch"]), int(line["step"]), float(loss) if _number(loss) else None, val))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            continue  # half written by a process that was killed
    return sorted(lines, key=lambda line: line.step)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30


def reliability(runs: Iterable[Run]) -> list[Bin]:
    """Return the bins of a reliability diagram that hold images, of the test predictions of all runs (Guo et al. 2017)."""
    sums = [_bin_sums(run.folder, tuple(run.test.per_class)) for run in runs if run.test]
    bins = (map(sum, zip(*each)) for each in zip(*filter(None, sums)))
    return [Bin(confidence / n, right / n, int(n)) for n, confidence, right in bins if n]


@cache
def _bin_sums(folder: Path, classes: tuple[str, ...]) -> list[tuple[float, float, float]]:
    """Return for each bin of the ECE the number of images, the sum of their confidence, and how many are right."""
    import numpy as np

    from medpeft_cli.metrics.classification import ECE_BINS

    labels, probabilities = _labels_and_probabilities(folder / "predictions.csv", classes)
    if not len(labels):
        return []
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.digitize(confidence, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)
    sums = (np.bincount(place, weights, ECE_BINS).tolist() for weights in (None, confidence, right))
    return list(zip(*sums, strict=True))


def _labels_and_probabilities(path: Path, classes: tuple[str, ...]) -> "tuple[np.ndarray, np.ndarray]":
    """Return what `read_predictions` reads, several times faster where a file is plain; empty where it is missing or damaged."""
    import numpy as np

    from medpeft_cli.metrics.classification import SUM_TOLERANCE
    from medpeft_cli.metrics.predictions import COLUMNS, read_predictions

    nothing = np.empty(0, np.int64), np.empty((0, len(classes)))
    if not classes or not path.is_file():
        return nothing
    first = len(COLUMNS)
    form: dict[str, Any] = {"delimiter": ",", "skiprows": 1, "quotechar": '"', "comments": None, "encoding": "latin-1"}
    try:
        with warnings.catch_warnings(action="ignore"):  # of a file without lines
            numbers = np.loadtxt(path, usecols=range(first, first + len(classes)), ndmin=2, **form)
            names = np.loadtxt(path, usecols=COLUMNS.index("label"), dtype=str, ndmin=1, **form)
        found, labels = np.unique(names, return_inverse=True)
        index = {name.encode().decode("latin-1"): k for k, name in enumerate(classes)}
        if ((numbers >= 0) & (numbers <= 1 + 1e-6)).all() and (abs(numbers.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
            return np.array([index[name] for name in found.tolist()], dtype=np.int64)[labels], numbers
    except (OSError, ValueError, KeyError):
        pass
    try:
        predictions = read_predictions(path, classes)
    except DataError:
        return nothing
    return predictions.labels, predictions.probabilities


def generated(run: Run) -> dict[int, str]:
    """Return prompt by prompt index of the pictures that `generate` made for the recipe, the first of each prompt."""
    path = images_folder(run) / "images.jsonl"
    if not path.is_file():
        return {}
    prompts: dict[int, str] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            if line["image_index"] == 0:
                prompts[int(line["prompt_index"])] = str(line["prompt"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return dict(sorted(prompts.items()))


def images_folder(run: Run) -> Path:
    """Return the folder of the pictures that `generate` made for the recipe, there or not."""
    return run.folder / "images"


def untuned_folder(run: Run, prompt_indices: list[int]) -> Path | None:
    """Return the folder of pictures for the same prompts by the untuned pipeline (`generate --base`), if it has them all."""
    ours = _generation(images_folder(run))
    for path in sorted(run.folder.glob("images-*/generation.json")):
        folder, theirs = path.parent, _generation(path.parent)
        alike = theirs and theirs.get("adapter_sha256", "") is None and theirs.get("prompts") == ours.get("prompts")
        if alike and all(picture_file(folder, index).is_file() for index in prompt_indices):
            return folder
    return None


def _generation(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def picture_file(folder: Path, prompt_index: int) -> Path:
    """Return the first picture of a prompt, there or not."""
    return folder / f"{prompt_index:06d}-000.png"


def newest_samples(run: Run) -> Path | None:
    """Return the pictures of the last validation; those of the test split where there are none."""
    sheet = images_folder(run) / "contact-sheet.png"
    found = sorted((run.folder / "samples").glob("step-*.png"))
    return found[-1] if found else sheet if sheet.is_file() else None


def open_picture(path: Path) -> "Image | None":
    """Return a picture as RGB; None if it is no picture, or larger than any that medpeft writes."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if max(image.size) > LARGEST:
                return None
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
