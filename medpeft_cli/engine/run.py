"""What the runs of all tasks share: a record that tells how they ended, and an adapter that is proved to reload."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import safe_open
from torch import Tensor, nn

from medpeft_cli.console import console
from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.compile import compiled
from medpeft_cli.engine.failures import explained
from medpeft_cli.engine.join import answerable
from medpeft_cli.engine.loop import Task, fit
from medpeft_cli.engine.restore import restore_adapter
from medpeft_cli.engine.spending import ENERGY_MEASURE, energy_counter
from medpeft_cli.engine.together import told
from medpeft_cli.engine.track import tracked
from medpeft_cli.errors import DataError, RunError
from medpeft_cli.files import sha256_file, write_text
from medpeft_cli.methods.state import TENSOR_FILE, save_adapter, set_delta
from medpeft_cli.recipe.identity import study_id
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.recipe.search import with_values
from medpeft_cli.runs import ranks
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.runs.ranks import follows
from medpeft_cli.runs.record import REPAIR, Copy, Record
from medpeft_cli.runs.skip import run_directory
from medpeft_cli.runs.stop import Stopped, leave_if_asked, note_progress, progressed

if TYPE_CHECKING:
    from medpeft_cli.engine.search import Build

MOST_IDLE_STARTS = 5  # in a row that SLURM made and asked to leave before anything could be kept
RELOAD_TOLERANCE = 1e-3  # of the outputs, on devices whose sums are not reproducible; on a CPU they must be equal


class RunTask(Task, Protocol):
    """What a run asks of a task beside what the loop asks."""

    def outputs(self, model: nn.Module) -> Tensor:
        """Return what the model says of the validation split; an adapter that is loaded again must give the same."""

    def scores(self, outputs: Tensor) -> dict[str, Any]:
        """Return what the record says of the validation split."""


@contextmanager
def recorded_run(loaded: Loaded, results: Path, command: str) -> Iterator[Record]:
    """Keep the record of a run that the caller holds, and tell in it how the run ended: cancelled, or failed and why.

    Of several processes that train the run together process 0 does so; the others have a copy.

    Args:
        loaded: the resolved recipe.
        results: folder of all results; the run's own folder is results/<recipe stem>/<run id>.
        command: the command line, kept in the record.

    Raises:
        RunError: if memory does not suffice, or SLURM's time for a start does not.
    """
    run_dir = run_directory(loaded.path, loaded.recipe, results)
    if follows():
        with explained(loaded.recipe):
            yield Copy(run_dir, told({}))
        return
    record = Record.open(run_dir, loaded, command)
    told(record.data)
    try:
        with (
            answerable(lambda error: record.save(status="failed", error=error)),
            explained(loaded.recipe),
            tracked(record, loaded.recipe),
        ):
            yield record
    except Stopped as stop:  # one that SLURM starts again is still running
        idle = record.data.pop("idle_starts", 0) + 1
        if stop.again and not progressed():
            if idle == MOST_IDLE_STARTS:
                error = f"asked to leave in {idle} starts in a row before anything could be kept"
                record.save(status="failed", error=f"RunError: {error}")
                raise RunError(f"{run_dir}: {error}", "give the job more time, sbatch --time") from stop
            record.data["idle_starts"] = idle
        record.save(status="running" if stop.again else "cancelled")
        then = "SLURM is asked to start it again" if stop.again else f"the same command goes on: {command}"
        console.say(f"stopped by a signal at the last checkpoint; {then}")
        raise
    except KeyboardInterrupt:
        record.save(status="cancelled")
        console.say(f"stopped; the same command goes on from the last checkpoint: {command}")
        raise
    except Exception as error:
        record.save(status="failed", error=f"{type(error).__name__}: {error}")
        raise


@contextmanager
def trained_run(run_dir: Path) -> Iterator[Record]:
    """Hold the folder and the record of a run that is trained.

    Raises:
        DataError: if it is not trained yet.
        RunError: if another process works on the run, or memory does not suffice.
    """
    Record.read(run_dir)  # before a lock file is made in a folder that is no run
    with run_lock(run_dir):
        record = Record.read(run_dir)
        refuse_untrained(record)
        with explained(record.recipe):
            yield record


def refuse_untrained(record: Record) -> None:
    """Raise DataError if a run has no adapter yet, or its record lacks what scoring needs."""
    if "delta" not in record.data:
        raise DataError(
            f"{record.run_dir}: not trained yet (status {record.data['status']!r})",
            f"finish it: {record.data['command']}",
        )
    if missing := {"data", "metrics", "timing"} - record.data.keys():
        raise DataError(f"{record.run_dir / 'record.json'}: damaged record: no {', '.join(sorted(missing))}", REPAIR)


def with_search(record: Record, recipe: Recipe, build: "Build") -> Recipe:
    """Return the recipe with the values that its search has chosen; the recipe itself where it searches nothing.

    Args:
        record: of the run; it gets the search, and the time that this run spent in it.
        recipe: the run's.
        build: makes data, model and task of a trial; the task must not know the test split.

    Raises:
        RecipeError, DataError, RunError: as `engine.search.search` raises them.
    """
    if not recipe.search.trials:
        return recipe
    if "search" not in record.data:
        from medpeft_cli.engine.search import search

        timing, started = record.data.get("timing", {}), time.monotonic()
        try:
            with ranks.alone():  # of several processes each takes trials of its own
                record.data["search"] = search(recipe, record.run_dir.parent / study_id(recipe), build)
        finally:
            spent = timing.get("search_seconds", 0.0) + time.monotonic() - started
            record.save(timing=timing | {"search_seconds": round(spent, 3)})
    return with_values(recipe, record.data["search"]["chosen"])


def train(assembly: Assembly, task: RunTask, info: dict[str, Any], record: Record) -> None:
    """Fit, save the adapter, prove that it reloads, and complete the record up to validation.

    Args:
        assembly: data and adapted model.
        task: what is trained.
        info: what the adapter folder says of itself (medpeft.json).
        record: of the run; its folder gets history.jsonl and adapter/.

    Raises:
        RunError: if training diverges, or the saved adapter does not give the model's outputs again.
    """
    recipe, adapted, device, run_dir = assembly.recipe, assembly.adapted, assembly.device, record.run_dir
    checkpoint = Checkpoint(run_dir / "checkpoint")
    with (
        compiled(adapted.model, recipe.train.compile),
        console.progress(task.plan.total_steps, record.data["id"], "steps") as advance,
    ):
        state, best, memory = fit(
            adapted, task, recipe.train, recipe.seed, device, checkpoint, advance, record.follow, energy_counter(device)
        )
    if follows():
        return
    leave_if_asked()
    write_text(run_dir / "history.jsonl", "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in state.history))
    set_delta(adapted, best)
    save_adapter(adapted, run_dir / "adapter", info)
    outputs = task.outputs(adapted.model)
    _prove_reload(run_dir / "adapter", task, outputs, assembly)
    delta = _delta_facts(run_dir / "adapter")
    select = task.plan.select
    console.say(
        f"trained   {'weights of the last' if select == 'last' else f'best {select} {state.best_value:.3f} at'} step "
        f"{state.best_step:,} · adapter {delta['tensors']} tensors, {delta['bytes']:,} bytes, "
        "reloads into a fresh model with the same outputs"
    )
    record.save(
        delta=delta,
        timing=record.data.get("timing", {})
        | {
            "train_seconds": round(state.seconds, 3),
            "images_per_second": round(state.images / max(state.seconds, 1e-9), 2),
        },
        memory=memory | {"device": str(device)},
        energy={} if state.joules is None else {"train_joules": round(state.joules, 1), "measure": ENERGY_MEASURE},
        selection={
            "metric": select,
            "epoch": state.best_epoch,
            "step": state.best_step,
            "value": state.best_value,
        },
        metrics={"val": task.scores(outputs)},
    )


def finish_training(record: Record) -> None:
    """Note that a run is trained, and let its checkpoint go."""
    if follows():
        return
    record.save(status="trained", error=None)
    note_progress()
    Checkpoint(record.run_dir / "checkpoint").remove()


def _prove_reload(folder: Path, task: RunTask, outputs: Tensor, assembly: Assembly) -> None:
    """Load the saved adapter into a fresh model; it must give the outputs on the validation split again."""
    fresh = restore_adapter(folder).adapted.model.to(assembly.device).eval()
    tolerance = 0.0 if assembly.device.type == "cpu" else RELOAD_TOLERANCE
    difference = float((task.outputs(fresh) - outputs).abs().max())
    if not difference <= tolerance:
        raise RunError(
            f"{folder}: the saved adapter does not reproduce the model: its outputs differ by {difference:.3g}",
            "this is a fault of medpeft or of the method; please report it with the run's record.json",
        )


def _delta_facts(folder: Path) -> dict[str, Any]:
    path = folder / TENSOR_FILE
    with safe_open(path, framework="pt") as tensors:
        return {"tensors": len(tensors.keys()), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
