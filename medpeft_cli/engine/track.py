"""Send a run to an experiment tracker beside its record, through accelerate's trackers: losses, metrics, recipe, nothing else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from medpeft_cli.console import console
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.recipe.identity import essence
from medpeft_cli.recipe.load import leaves
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.recipe.search import with_values
from medpeft_cli.runs.record import Record

PROJECT = "medpeft"
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
WANDB = {  # it would send the machine and its figures, packages, repository, code and what is printed too
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


@contextmanager
def tracked(record: Record, recipe: Recipe) -> Iterator[None]:
    """Send what follows of a run to the tracker that its recipe names, if it names one.

    Each entry of the history is sent at its step, and at the end the metrics of the test split. A tracker that fails on the
    way is told of and left, for the record needs none.

    Raises:
        RecipeError: if the tracker's package is not installed.
        RunError: if it does not start.
    """
    if recipe.track is None:
        yield
        return
    name = recipe.track
    if not any(find_spec(package) for package in PACKAGES[name]):
        raise RecipeError(f"track: {name} is not installed", f"pip install {name}; or run without --track")
    try:
        with redirect_stdout(sys.stderr):  # ours is for the run's folder
            tracker = _open(name, record)
            tracker.start()
    except Exception as error:
        raise RunError(
            f"track: {name} does not start: {error}", "run without --track: the record needs none"
        ) from error
    last_step: int | None = None
    working = True

    def send(values: dict[str, Any], step: int) -> None:
        nonlocal last_step, working
        if not working:
            return
        try:
            if last_step is None:  # only now is it known what a search has chosen
                settings = with_values(recipe, record.data.get("search", {}).get("chosen", {}))
                tracker.store_init_configuration(_flat(essence(settings.model_dump(mode="json"))))
            tracker.log(values, step=step)
        except Exception as error:
            working = False
            console.warn(f"track: {name} failed and is left: {error}")
        last_step = step

    record.follow = lambda entry: send(_flat({k: v for k, v in entry.items() if k != "step"}, "/"), entry["step"])
    try:
        yield
        if test := record.data.get("metrics", {}).get("test"):
            values = {f"test/{metric}": scored["value"] for metric, scored in test["overall"].items()}
            step = last_step or record.data["selection"]["step"]
            send({metric: value for metric, value in values.items() if value is not None}, step)
    finally:
        try:
            with redirect_stdout(sys.stderr):
                (
                    sys.modules["trackio"] if name == "trackio" else tracker
                ).finish()  # or it prints at the very end again
        except Exception as error:
            console.warn(f"track: {name} did not end well: {error}")


def _open(name: str, record: Record) -> Any:
    """Return accelerate's tracker; the same run, started again, goes on in the tracker where that can."""
    from accelerate import PartialState, tracking

    PartialState()  # what its trackers ask whether this is the main process
    run = record.data["id"]
    if name == "tensorboard":
        return tracking.TensorBoardTracker(name, logging_dir=record.run_dir)
    if name == "mlflow":
        return tracking.MLflowTracker(PROJECT, run_name=run)
    if name == "trackio":
        return tracking.TrackioTracker(PROJECT, name=run, resume="allow", auto_log_cpu=False, auto_log_gpu=False)
    return tracking.WandBTracker(PROJECT, id=run, name=run, resume="allow", dir=str(record.run_dir), settings=WANDB)


def _flat(values: dict[str, Any], sign: str = ".") -> dict[str, Any]:
    """Return nested maps as one of numbers and text, by dotted names or with another sign between."""
    plain = {sign.join(map(str, key)): value for key, value in leaves(values)}
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in plain.items()}
