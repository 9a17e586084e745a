"""`predictions.csv`: id, true class and class probabilities of each image, from which every metric can be recomputed."""

import csv
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path
from medpeft_cli.metrics.classification import SUM_TOLERANCE

HINT = "the file is damaged: delete it and run `medpeft evaluate RUN`, which asks the model again"

COLUMNS = ("id", "group", "label")


class Predictions(NamedTuple):
    """What a run said about N images.

    Attributes:
        ids: N image ids, unique.
        groups: N names of what the image belongs to (patient, lesion); its own id where nothing is known.
        labels: int64 (N,), true class.
        probabilities: float64 (N, K), each row summing to 1 up to rounding.
    """

    ids: list[str]
    groups: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def write_predictions(
    path: Path,
    ids: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Write predictions atomically, with 9 significant digits: enough to get every float32 back exactly.

    Names from files whose own names are not UTF-8 are written as the bytes they are on disk.

    Args:
        path: the file.
        ids: N image ids.
        groups: N groups.
        labels: N names of the true classes.
        probabilities: float (N, K).
        classes: K names.

    Raises:
        RunError: if the file cannot be written.
    """
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"p_{name}" for name in classes)])
        for name, group, label, row in zip(ids, groups, labels, probabilities, strict=True):
            writer.writerow([name, group, label, *(f"{value:.9g}" for value in row)])


def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Read what `write_predictions` wrote.

    Args:
        path: the file.
        classes: K names, as the file must have them, in this order.

    Raises:
        DataError: if the file is missing, damaged, or of other classes, with the line and the column.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return _parse(path, csv.reader(file, strict=True), classes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "score the run with `medpeft evaluate RUN`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(path: Path, reader: Any, classes: Sequence[str]) -> Predictions:
    def damaged(column: str, problem: str) -> DataError:
        return DataError(f"{path}:{max(reader.line_num, 1)}: column {column!r}: {problem}", HINT)

    try:
        header: list[str] = next(reader, [])
        wanted = [*COLUMNS, *(f"p_{name}" for name in classes)]
        for got, name in zip_longest(header, wanted):
            if got != name:
                raise damaged(name or got, f"got {got!r} in the header, wanted {name!r}")
        index = {name: k for k, name in enumerate(classes)}
        ids: dict[str, None] = {}
        groups, labels, rows = [], [], []
        for row in reader:
            if len(row) != len(header):
                raise damaged(header[min(len(row), len(header) - 1)], f"got {len(row)} cells, wanted {len(header)}")
            if row[0] in ids:
                raise damaged("id", f"{row[0]!r} is there twice")
            if row[2] not in index:
                raise damaged("label", f"{row[2]!r} is none of the classes {', '.join(classes)}")
            ids[row[0]] = None
            groups.append(row[1])
            labels.append(index[row[2]])
            values = [_probability(cell, column, damaged) for column, cell in zip(header[3:], row[3:], strict=True)]
            if abs(sum(values) - 1) > SUM_TOLERANCE:
                raise damaged(header[3], f"the row is not a probability distribution: sum {sum(values):.6g}, wanted 1")
            rows.append(values)
    except csv.Error as error:
        raise damaged("id", str(error)) from error
    probabilities = np.array(rows, dtype=np.float64).reshape(-1, len(classes))
    return Predictions(list(ids), groups, np.array(labels, dtype=np.int64), probabilities)


def _probability(cell: str, column: str, damaged: Callable[[str, str], DataError]) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise damaged(column, f"got {cell[:40]!r}, wanted a number") from None
    if not 0 <= value <= 1 + 1e-6:
        raise damaged(column, f"got {cell!r}, wanted a probability in 0–1")
    return value
