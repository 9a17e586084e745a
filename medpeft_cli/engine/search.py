"""Search a recipe's values on the validation split: trials that any number of processes share, through Optuna's file journal.

A study is a folder beside the runs that share it, those of all seeds. Its trials are laid out beforehand, so there are exactly
as many as the recipe says. A trial is a folder with a lock and a checkpoint, as a run is: one process works on it, and whoever
comes next goes on with one that was killed, with the same values.
"""

import errno
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from medpeft_cli.console import console
from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.compile import compiled
from medpeft_cli.engine.loop import DivergedError, Task, fit
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.files import unwritable
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.recipe.search import own_values, takes_whole_numbers, trial_recipe
from medpeft_cli.runs.lock import BusyError, holder, run_lock
from medpeft_cli.runs.stop import leave_if_asked, note_progress

POLL_SECONDS = 2.0  # between two looks at trials that other processes work on
PRUNE_FROM = 0.25  # of a trial's steps: before, the rate has hardly left its warm-up
PRUNE_AFTER = 2  # trials that end before one is compared with them
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Build = Callable[[Any, Path], tuple[Assembly, Any]]
"""Makes data, model and task of a training from its recipe and its folder. The task does not know the test split."""


def search(recipe: Recipe, folder: Path, build: Build) -> dict[str, Any]:
    """Work on the trials of a study until all have ended, and return what the record says of them (docs/records.md).

    Args:
        recipe: one that searches; its seed does not count.
        folder: of the study.
        build: makes data, model and task of a trial.

    Raises:
        RecipeError: if the method cannot take the values of a trial.
        DataError: if the study was begun with other data or weights, or its journal is damaged.
        RunError: if no trial ended with a finite value, or the disk is full.
        Stopped: at a signal; what was done of the present trial is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = _Study(recipe, folder, build)
        console.say(
            f"search    {len(study.trials)} trials of {', '.join(recipe.search.space)}, by {study.metric} of the "
            f"validation split, in {folder}"
        )
        waiting = False
        while unfinished := [trial.number for trial in study.trials if not trial.state.is_finished()]:
            leave_if_asked()
            if any(study.work_on(number) for number in unfinished):
                continue
            if not waiting:
                console.say(f"search    waiting for {len(unfinished)} of them, which other processes work on")
            waiting = True
            note_progress()
            time.sleep(POLL_SECONDS)
        return study.summary()
    except OSError as error:
        if error.errno in FULL:
            raise unwritable(folder, error) from error
        raise


class _Study:
    """A study in its folder, and how its trials are done."""

    def __init__(self, recipe: Recipe, folder: Path, build: Build):
        self.recipe, self.folder, self.build = recipe, folder, build
        select = recipe.model_dump()["train"]["select"]
        self.metric = "loss" if select == "last" else select
        self.direction = "minimize" if self.metric == "loss" else "maximize"
        with run_lock(folder, wait=True):  # whoever comes first lays out the trials
            self._open()

    def _open(self) -> None:
        path = self.folder / "journal.log"
        try:
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
            self.study = optuna.create_study(
                storage=self.storage, study_name="search", load_if_exists=True, direction=self.direction,
                pruner=optuna.pruners.MedianPruner(PRUNE_AFTER) if self.recipe.search.prune else optuna.pruners.NopPruner(),
            )  # fmt: skip
            for number in range(len(self.trials), self.recipe.search.trials):
                self.study.enqueue_trial({} if number else self._own())
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: damaged journal: {error}", f"delete {self.folder} to search again") from error

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, as they stand now."""
        return self.study.get_trials(deepcopy=False)

    def work_on(self, number: int) -> bool:
        """Do one trial, or go on with it; return False if another process has it."""
        place = self.folder / "trials" / str(number)
        if holder(place):
            return False
        try:
            with run_lock(place):
                if not self.trials[number].state.is_finished():  # by another process, just now
                    self._do(self._taken(number), place)
        except BusyError:
            return False
        return True

    def summary(self) -> dict[str, Any]:
        """Return what the record says, and tell it.

        Raises:
            RunError: if no trial finished.
        """
        ended = [self._facts(trial) for trial in self.trials]
        finished = [one for one in ended if one["state"] == "finished"]
        if not finished:
            raise RunError(
                f"{self.folder}: none of the {len(ended)} trials ended with a finite {self.metric}",
                "lower the highest train.lr of search.space",
            )
        sign = 1 if self.direction == "minimize" else -1
        best = min(finished, key=lambda one: (sign * one["value"], one["number"]))
        seconds = round(sum(one["seconds"] for one in ended), 3)
        console.say(f"search    {_told(best['values'])}: the best of {len(ended)} trials, which took {seconds:,.0f} s")
        return {
            "study": self.folder.name,
            "metric": self.metric,
            "direction": self.direction,
            "chosen": best["values"],
            "trial": best["number"],
            "value": best["value"],
            "seconds": seconds,
            "trials": ended,
            "inputs": self.study.user_attrs["inputs"],
        }

    def _do(self, trial: optuna.Trial, place: Path) -> None:
        """Train with the values of a trial, and tell the study how that ended."""
        values = {field: self._suggested(trial, field) for field in self.recipe.search.space}
        name = f"trial {trial.number + 1}/{len(self.trials)}: {_told(values)}"
        asked = trial_recipe(self.recipe, values)
        checkpoint = Checkpoint(place / "checkpoint")
        before, started = trial.user_attrs.get("seconds", 0.0), time.monotonic()

        def note_time() -> None:
            trial.set_user_attr("seconds", round(before + time.monotonic() - started, 3))

        try:
            assembly, task = self.build(asked, place)
            self._refuse_other_inputs(assembly)
            with (
                compiled(assembly.adapted.model, asked.train.compile),
                console.progress(task.plan.total_steps, name, "steps") as advance,
            ):
                watched = _Watched(task, trial, self.metric, note_time)
                state, _, _ = fit(
                    assembly.adapted, watched, asked.train, asked.seed, assembly.device, checkpoint, advance
                )
            value = state.best_value
        except optuna.TrialPruned:
            value = None
        except DivergedError as error:
            value = None
            trial.set_user_attr("diverged", error.message)
        except RecipeError as error:
            raise RecipeError(f"search, {name}: {error.message}", error.hint) from error
        finally:
            note_time()
        if value is not None and not math.isfinite(value):
            trial.set_user_attr("diverged", f"{self.metric} of the validation split became {value}")
            value = None
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self.study.tell(trial, value, skip_if_finished=True)
        checkpoint.remove()
        if (state := self._facts(self.trials[trial.number])["state"]) != "finished":
            console.say(f"{name}: {state}")

    def _taken(self, number: int) -> optuna.Trial:
        """Return one of the trials to work on; what is proposed for it depends on its number and on what has ended."""
        study_id = self.storage.get_study_id_from_name("search")
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        if self.trials[number].state == TrialState.WAITING:
            self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        seed = seed_of(number, self.folder.name) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=len(self.trials) // 2, seed=seed)
        return optuna.Trial(self.study, trial_id)

    def _suggested(self, trial: optuna.Trial, field: str) -> Any:
        """Return the value of a field in a trial; the same one however often it is asked."""
        searched = self.recipe.search.space[field]
        if searched.choice is not None:
            return json.loads(trial.suggest_categorical(field, [json.dumps(value) for value in searched.choice]))
        low, high = searched.ends
        logarithmic = searched.log is not None
        if takes_whole_numbers(self.recipe, field):
            return trial.suggest_int(field, round(low), round(high), log=logarithmic)
        return trial.suggest_float(field, low, high, log=logarithmic)

    def _own(self) -> dict[str, Any]:
        """Return the recipe's own values, which the first trial takes."""
        space = self.recipe.search.space
        return {
            field: value if space[field].choice is None else json.dumps(value)
            for field, value in own_values(self.recipe).items()
        }

    def _facts(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return what the record says of a trial that has ended."""
        diverged = trial.user_attrs.get("diverged")
        state = "diverged" if diverged else "finished" if trial.state == TrialState.COMPLETE else "pruned"
        choices = {field for field, one in self.recipe.search.space.items() if one.choice is not None}
        values = {field: json.loads(v) if field in choices else v for field, v in trial.params.items()}
        return {
            "number": trial.number,
            "state": state,
            "values": values,
            "value": None if diverged else trial.value,
            "seconds": trial.user_attrs.get("seconds", 0.0),
        }

    def _refuse_other_inputs(self, assembly: Assembly) -> None:
        inputs = {
            "manifest_sha256": assembly.manifest.sha256,
            "weights_sha256": assembly.pretrained.weights_sha256,
        }
        known = self.study.user_attrs.get("inputs")
        if known is None:
            self.study.set_user_attr("inputs", inputs)
        elif known != inputs:
            raise DataError(
                f"{self.folder}: the dataset or the pre-trained weights have changed since this search was begun",
                "give the old ones, or use another --results folder for the new ones",
            )


class _Watched:
    """A task whose validations are told to the study, which may stop the trial."""

    def __init__(self, task: Task, trial: optuna.Trial, metric: str, note_time: Callable[[], None]):
        self.task, self.trial, self.metric, self.note_time = task, trial, metric, note_time
        self.plan, self.micro_batches, self.loss = task.plan, task.micro_batches, task.loss
        self.reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the task's scores.

        Raises:
            TrialPruned: if the best so far is worse than the median of the other trials after so many steps.
        """
        scores = self.task.validate(model, step)
        if step not in self.reported:  # by a start before this
            self.trial.report(scores[self.metric], step)
        self.note_time()
        if PRUNE_FROM * self.plan.total_steps <= step < self.plan.total_steps and self.trial.should_prune():
            raise optuna.TrialPruned
        return scores


class _JournalLock(JournalFileOpenLock):
    """Held for every line that is written: a file that one process alone can create, on NFS too from version 3 on.

    It cuts off a last line that a full disk or a failed node has left half written: that would spoil the next one.
    """

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.path = path

    def acquire(self) -> bool:
        """Wait for the lock, and mend the journal."""
        taken = super().acquire()
        try:
            with self.path.open("rb+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                if file.read() not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return taken


def _told(values: dict[str, Any]) -> str:
    """Return `train.lr 0.000312, method.rank 8`."""
    return ", ".join(f"{field} {f'{v:.3g}' if isinstance(v, float) else json.dumps(v)}" for field, v in values.items())
