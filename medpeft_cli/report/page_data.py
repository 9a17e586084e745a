"""What the page's script knows of each run: plain values, shortened, each recipe and environment once."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpeft_cli.metrics.names import METRIC_INFO
from medpeft_cli.report import text
from medpeft_cli.report.records import Estimate, Run, Scores
from medpeft_cli.report.run_files import history, newest_samples, open_picture, reliability

POINTS = 120  # of a curve
MATRIX = 16  # classes up to which a confusion matrix is whole; of more, the most frequent confusions
CONFUSIONS = 20
SAMPLES = 240  # runs whose pictures are in the page
SAMPLE_PIXELS = 640  # the longer side of a run's pictures
LONGEST = 400  # characters of a value


class Views:
    """A name for each run that is safe in an address, and everything its view shows.

    Args:
        runs: all of the page.
        results: the folder that their paths are shown relative to.
    """

    def __init__(self, runs: Sequence[Run], results: Path):
        self._runs, self._results = runs, results
        self._names: dict[int, str] = {}
        taken: set[str] = set()
        for i, run in enumerate(runs):
            plain = re.sub(r"[^A-Za-z0-9]", "", run.identity)[:16]
            name = plain if plain and plain not in taken else f"n{i}"
            taken.add(name)
            self._names[id(run)] = name
        self._shared: dict[str, list[Any]] = {"recipes": [], "environments": [], "protocols": []}
        self._places: dict[str, int] = {}
        self._with_samples = 0

    def link(self, runs: Iterable[Run]) -> str:
        """Return the address of a run's view, or of the view of several; "" for none."""
        names = [self._names[id(run)] for run in runs if id(run) in self._names]
        return f"#run-{names[0]}" if len(names) == 1 else f"#cell-{'.'.join(names)}" if names else ""

    def data(self) -> dict[str, Any]:
        """Return it all, JSON-ready."""
        runs = {self._names[id(run)]: self._view(run) for run in self._runs}
        metrics = {
            name: [text.capitalised(info.title), "↑" if info.higher_is_better else "↓", info.digits]
            for name, info in METRIC_INFO.items()
        }
        return {"metrics": metrics, "runs": runs, **self._shared}

    def _once(self, kind: str, value: dict[str, str]) -> int:
        """Return the place of a value that many runs share."""
        key = f"{kind}{value}"
        if key not in self._places:
            self._places[key] = len(self._shared[kind])
            self._shared[kind].append(value)
        return self._places[key]

    def _view(self, run: Run) -> dict[str, Any]:
        counts = run.parameters
        recipe = {name: value for name, value in run.recipe.items() if name != "seed"}
        view: dict[str, Any] = {
            "id": text.clean(run.id, 160),
            "method": text.clean(run.method_title or run.method),
            "seed": run.seed,
            "demo": run.demo,
            "state": run.status,
            "command": text.clean(run.command or "", 2000),
            "folder": text.clean(_relative(run.folder, self._results), LONGEST),
            "error": _lines(run) if not run.test else "",
            "recipe": self._once("recipes", _flat(recipe)),
            "environment": self._once("environments", _flat(run.environment)),
            "counts": _counts(run),
            "curve": _curve(run),
            "bins": [[round(b.confidence, 3), round(b.accuracy, 3), b.images] for b in reliability([run])],
        }
        for split in ("val", "test"):
            scores = getattr(run.metrics, split) if run.metrics else None
            if scores is not None:
                view[split] = self._scores(scores)
        if counts:
            view["counts"] |= {
                "trained, method": f"{counts.method:,}",
                "trained, head": f"{counts.head:,}",
                "all parameters": f"{counts.total:,}",
            }
        if samples := self._samples(run):
            view["samples"] = samples
        return view

    def _scores(self, scores: Scores) -> dict[str, Any]:
        matrix, names = scores.confusion, [text.clean(name, 40) for name in scores.per_class]
        shown: dict[str, Any] = {
            "n": scores.n,
            "protocol": self._once("protocols", _flat(scores.protocol)),
            "overall": {text.clean(name): _estimate(each) for name, each in scores.overall.items()},
        }
        if names:
            shown["classes"] = names
            shown["per_class"] = [_class(values) for values in scores.per_class.values()]
        if matrix and len(matrix) <= MATRIX:
            shown["matrix"] = matrix
        elif matrix:
            wrong = [(count, i, j) for i, line in enumerate(matrix) for j, count in enumerate(line) if i != j and count]
            shown["confused"] = sorted(wrong, reverse=True)[:CONFUSIONS]
        return shown

    def _samples(self, run: Run) -> str:
        """Return the newest pictures of a run as a data address; "" where there are none, or too many runs have some."""
        path = newest_samples(run)
        picture = open_picture(path) if path and self._with_samples < SAMPLES else None
        if picture is None:
            return ""
        self._with_samples += 1
        picture.thumbnail((SAMPLE_PIXELS, SAMPLE_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _relative(folder: Path, results: Path) -> str:
    return str(results / folder.relative_to(results)) if folder.is_relative_to(results) else str(folder)


def _lines(run: Run) -> str:
    """Return why a run has no score: the reason, and behind it all that its error says."""
    error = run.error.get("message", run.error) if isinstance(run.error, dict) else run.error
    lines = str(error).splitlines()[1:40] if error else []
    return "\n".join([text.clean(run.reason, LONGEST), *(text.clean(line, LONGEST) for line in lines)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{text.clean(key)}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = text.clean("–" if value in (None, {}, []) else value, LONGEST)
    return flat


def _counts(run: Run) -> dict[str, str]:
    """Return what a run trained on and what it cost, in words."""
    epoch, picked = run.selection.get("epoch"), run.selection.get("metric")
    measure = text.clean(run.memory.get("measure", ""), 80)
    said = {
        "training images": f"{run.data.train_images:,}" if run.data and run.data.train_images else None,
        "training time": _with_unit(run.timing.get("train_seconds"), 60, "minutes"),
        "speed": _with_unit(run.timing.get("images_per_second"), 1, "images a second"),
        "peak memory": _with_unit(run.memory.get("peak_bytes"), 1e9, f"GB ({measure})"),
        "energy": _with_unit(
            run.energy.get("train_joules"), 3600, f"Wh ({text.clean(run.energy.get('measure', ''), 80)})"
        ),
        "picked": f"epoch {epoch + 1} by {text.clean(picked)}" if isinstance(epoch, int) and picked else None,
        "started": text.clean(run.created) if run.created else None,
    }
    return {name: value for name, value in said.items() if value}


def _with_unit(value: Any, unit: float, name: str) -> str | None:
    return f"{value / unit:,.1f} {name}" if isinstance(value, int | float) else None


def _estimate(each: Estimate) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in (each.value, each.low, each.high)]


def _class(values: Mapping[str, int | Estimate]) -> dict[str, Any]:
    return {text.clean(name): _estimate(each) if isinstance(each, Estimate) else each for name, each in values.items()}


def _curve(run: Run) -> dict[str, Any]:
    """Return training loss and validation values by epoch, or step; at most POINTS of them."""
    lines = history(run)
    lines = lines[:: -(-len(lines) // POINTS) or 1]
    watched = str(run.selection.get("metric"))
    names = [name for name in ("loss", watched, "f1_macro") if any(name in line.val for line in lines)]
    unit = "step" if run.family == "unet" else "epoch"
    return {
        "unit": unit,
        "x": [line.step if unit == "step" else line.epoch + 1 for line in lines],
        "train loss": [_short(line.train_loss) for line in lines],
        "val": {text.clean(name): [_short(line.val.get(name)) for line in lines] for name in dict.fromkeys(names)},
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
