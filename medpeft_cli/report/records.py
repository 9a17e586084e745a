"""Read every record.json under a folder. What cannot be used becomes a listed problem, never a crash."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medpeft_cli.errors import DataError
from medpeft_cli.runs.record import SCHEMA_VERSION

LEVELS = (
    20  # of lists and maps inside each other: more is no record of ours, and would end the recursions that print it
)
LARGEST = 2**63  # of whole numbers: what a float, and so a figure, can hold


def _shallow(values: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [values]
    for _ in range(LEVELS):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        if not (level := [each for each in level if isinstance(each, dict | list)]):
            return values
    raise ValueError(f"more than {LEVELS} lists and maps inside each other")


Free = Annotated[dict[str, Any], AfterValidator(_shallow)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """What the report reads of a record; all else is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A metric with its bootstrap interval; None = undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Scores(Part):
    """Metrics of one split."""

    n: int
    protocol: Free = {}
    generation: Free = {}
    overall: dict[str, Estimate]
    per_class: dict[str, dict[str, int | Estimate]] = {}
    confusion: list[list[int]] = []


class Metrics(Part):
    """Metrics by split; tables print the test split."""

    val: Scores | None = None
    test: Scores | None = None


class Parameters(Part):
    """Counts of the adapted model."""

    total: Count
    method: Count
    head: Count


class CardName(Part):
    """The dataset card of a run."""

    name: str
    title: str
    sha256: str | None = None


class DataVersion(Part):
    """Which pictures and splits a run saw."""

    manifest_sha256: str | None = None
    train_images: int | None = None


class Weights(Part):
    """The tensors that the backbone started from."""

    sha256: str | None = None


class Run(Part):
    """One record. What a run that failed early may lack is None."""

    id: str
    identity: str
    cell: str
    status: Literal["running", "trained", "finished", "failed", "cancelled"]
    demo: bool
    results_revision: int
    command: str | None = None
    recipe: Free = {}
    family: str | None = None
    backbone_title: str | None = None
    method_title: str | None = None
    card: CardName | None = None
    data: DataVersion | None = None
    weights: Weights | None = None
    parameters: Parameters | None = None
    metrics: Metrics | None = None
    error: str | Free | None = None
    created: str | None = None
    timing: dict[str, float | None] = {}
    memory: Free = {}
    energy: Free = {}
    selection: Free = {}
    environment: Free = {}
    folder: Path = Path()  # where the record lies; set by who reads it, whatever the record says

    @model_validator(mode="after")
    def _amount_of_data(self) -> Self:
        """Refuse an amount of training data that no recipe can ask for: rows are sorted and drawn by it."""
        fraction, shots = self.setting("data", "fraction"), self.setting("data", "k_shot")
        if not (fraction is None or (isinstance(fraction, int | float) and 0 < fraction <= 1)):
            raise ValueError(f"recipe.data.fraction: got {fraction!r:.40}, wanted more than 0 and at most 1")
        if not (shots is None or (isinstance(shots, int) and shots > 0)):
            raise ValueError(f"recipe.data.k_shot: got {shots!r:.40}, wanted a whole number above 0")
        return self

    def setting(self, *keys: str) -> Any:
        """Return a value of the resolved recipe, `setting("data", "fraction")`; None if it is not there."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def data_version(self) -> str | None:
        """Hash of the prepared dataset, which no recipe holds; None before the data was read."""
        return self.data.manifest_sha256 if self.data else None

    @property
    def weights_version(self) -> str | None:
        """Hash of the pre-trained weights, which no recipe holds; None before they were read, and for random ones."""
        random = self.setting("backbone", "weights") == "random"
        return self.weights.sha256 if self.weights and not random else None

    @property
    def method(self) -> str:
        """Registry name of the method."""
        return str(self.setting("method", "name"))

    @property
    def seed(self) -> int:
        """Seed of the run; −1 if the recipe says none."""
        seed = self.setting("seed")
        return seed if isinstance(seed, int) else -1

    @property
    def share(self) -> float:
        """Fraction of the training split, 0–1; 1 if the recipe says none."""
        fraction = self.setting("data", "fraction")
        return float(fraction) if isinstance(fraction, int | float) else 1.0

    @property
    def whole(self) -> bool:
        """Whether it was trained on the whole training split."""
        return self.share == 1 and self.setting("data", "k_shot") is None

    @property
    def test(self) -> Scores | None:
        """Metrics of the test split, once they are there."""
        return self.metrics.test if self.metrics and self.status == "finished" else None

    @property
    def judged(self) -> str:
        """How generated pictures were made and compared, in words; numbers of two ways do not compare. "" for other runs."""
        if not self.test or not self.test.generation:
            return ""
        made, protocol = self.test.generation, self.test.protocol
        networks = [
            f"{title} {network.get('name')} ({str(network.get('sha256'))[:8]})"
            for title, network in (("features of", protocol.get("encoder")), ("CLIP model", protocol.get("clip")))
            if isinstance(network, dict)
        ]
        images = protocol.get("images")
        sets = images if isinstance(images, dict) else {}
        return ", ".join([
            *networks,
            f"{sets.get('generated')} generated and {sets.get('real')} real images",
            f"{made.get('size_pixels')} px",
            f"guidance {_plain(made.get('guidance'))}",
            f"{made.get('steps')} steps",
            f"scheduler {made.get('scheduler')}",
        ])  # fmt: skip

    @property
    def reason(self) -> str:
        """Why the run has no result, in one line."""
        if self.status in ("trained", "finished"):
            return "trained, not scored: give it to `medpeft evaluate`"
        if self.status == "running":
            return "running, or killed: the same command goes on"
        text = self.error.get("message", self.error) if isinstance(self.error, dict) else self.error
        lines = str(text).strip().splitlines() if text else []
        return f"{self.status}: {lines[0]}" if lines else self.status


def _plain(number: Any) -> str:
    return f"{number:g}" if isinstance(number, int | float) else str(number)


class Problem(NamedTuple):
    """A record that the report had to leave out: its path under the results folder, and why."""

    path: str
    reason: str


class Collected(NamedTuple):
    """All usable runs, in order of their path, and the problems."""

    runs: list[Run]
    problems: list[Problem]


def read_records(results: Path) -> Collected:
    """Read every record under a folder, in any depth.

    A run that is there twice (a copied folder) counts once, so that no seed counts twice in a mean. The same recipe on
    another version of the dataset or of the weights is another run.

    Raises:
        DataError: if there is no such folder.
    """
    runs: dict[tuple[str, int, str | None, str | None], tuple[str, Run]] = {}
    problems = []
    for path in record_files(results):
        place = path.relative_to(results).as_posix()
        run = _read(path)
        if isinstance(run, str):
            problems.append(Problem(place, run))
            continue
        key = (run.identity, run.results_revision, run.data_version, run.weights_version)
        if key in runs:
            kept, first = runs[key]
            if run.status == "finished" != first.status:
                kept, place, runs[key] = place, kept, (place, run)
            problems.append(Problem(place, f"the same run as {kept}: counted once"))
        else:
            runs[key] = (place, run)
    return Collected([run for _, run in sorted(runs.values(), key=lambda pair: pair[0])], sorted(problems))


def parse_record(text: str, folder: Path = Path()) -> Run:
    """Return the run that a record's text describes.

    Args:
        text: of record.json.
        folder: the run directory it lies in.

    Raises:
        ValueError: with the reason, if the report cannot use it.
    """
    try:
        data = json.loads(text, parse_constant=lambda _: None, parse_int=_whole)  # NaN, Infinity: undefined
    except json.JSONDecodeError as error:
        raise ValueError(f"half written or damaged: line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(data, dict):
        raise ValueError(f"not a record: got a JSON {type(data).__name__}, wanted an object")
    if (version := data.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}, wanted {SCHEMA_VERSION}")
    try:
        return Run.model_validate(data | {"folder": folder})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].lower()
        raise ValueError(f"{': '.join(filter(None, ('.'.join(map(str, first['loc'])), said)))}{more}") from error


def _whole(digits: str) -> int:
    if len(digits) > len(str(LARGEST)) or abs(int(digits)) > LARGEST:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _read(path: Path) -> Run | str:
    try:
        return parse_record(path.read_text(encoding="utf-8"), path.parent)
    except UnicodeDecodeError:
        return "half written or damaged: not UTF-8"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return str(error)


def record_files(results: Path) -> list[Path]:
    """Return every record.json under a folder, in order.

    Raises:
        DataError: if there is no such folder.
    """
    if not results.is_dir():
        raise DataError(f"{results}: no such folder", "give the folder of results that `medpeft finetune` wrote")
    found = []
    for folder, children, files in os.walk(results):
        if "record.json" in files:
            found.append(Path(folder, "record.json"))
            children.clear()  # nothing below a run directory is a run
    return sorted(found)
