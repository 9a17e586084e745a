"""Hand the runs of a grid to SLURM: a frozen list of commands, one script that a user can read, and `sbatch`."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.files import write_text
from medpeft_cli.recipe.grid import Cell

ARRAY_SIZE = 1001  # SLURM's own MaxArraySize, where it cannot be asked; an index is smaller than it
RUN_LIST = "runs.tsv"


@dataclass(frozen=True)
class Resources:
    """What each task of an array asks for; None = the cluster's default.

    Attributes:
        partition: as sbatch takes it.
        time: limit for each run, such as 4:00:00.
        gpus_per_task: GPUs of each run.
        account: as sbatch takes it.
        array_limit: most tasks at a time.
        setup: shell line before the run, such as `module load cuda`.
    """

    partition: str | None = None
    time: str | None = None
    gpus_per_task: int | None = None
    account: str | None = None
    array_limit: int | None = None
    setup: str | None = None


def write_job(cells: Sequence[Cell], results: Path, name: str, resources: Resources) -> Path:
    """Write job.sh and runs.tsv to results/sweeps/<name>-<number>, a new folder, and return the script.

    Where a task has several GPUs its run is trained on all of them.

    Raises:
        RunError: if the folder cannot be written.
    """
    folder = _new_folder(results / "sweeps", name)
    gpus = f" --gpus {resources.gpus_per_task}" if (resources.gpus_per_task or 0) > 1 else ""
    lines = [f"{cell.run}\t{cell.command(results)}{gpus}\n" for cell in cells]
    write_text(folder / RUN_LIST, "".join(lines))
    write_text(folder / "job.sh", _script(folder, name, len(cells), resources))
    return folder / "job.sh"


def array_commands(script: Path, count: int, largest: int, limit: int | None, after: str | None) -> list[list[str]]:
    """Return the calls of sbatch that do lines 1 to `count` of the run list: one array, or several if it is too long.

    Args:
        script: what `write_job` has written.
        count: runs.
        largest: the cluster's MaxArraySize; indices stay below it.
        limit: most tasks of an array at a time; None = no limit.
        after: job that must have succeeded before; None = none.
    """
    throttle = f"%{limit}" if limit else ""
    call = ["sbatch", "--parsable", *([f"--dependency=afterok:{after}"] if after else [])]
    return [
        [*call, f"--array=1-{min(largest - 1, count - first)}{throttle}", str(script), str(first)]
        for first in range(0, count, largest - 1)
    ]


def submit(command: Sequence[str]) -> str:
    """Call sbatch and return the id of the job.

    Raises:
        RunError: with the words of sbatch, if it refuses or is not there.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise RunError(
            "sbatch: not found", "submit on a login node of the cluster; --dry-run writes the script"
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError("sbatch: no answer within 120 s", "look whether it was submitted: squeue --me") from None
    if done.returncode:
        raise RunError(f"sbatch refused: {done.stderr.strip()}", f"the call was: {shlex.join(command)}")
    return done.stdout.strip().partition(";")[0]


def largest_array() -> int:
    """Return the cluster's MaxArraySize.

    Raises:
        RunError: if the cluster has arrays switched off.
    """
    try:
        words = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ARRAY_SIZE
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", words, re.M)
    if (size := int(found[1]) if found else ARRAY_SIZE) < 2:
        raise RunError(
            "this cluster has job arrays switched off (MaxArraySize)", "use `medpeft sweep run` inside a job"
        )
    return size


def listed_run(run_list: Path, number: int) -> tuple[str, str]:
    """Return run id and command of one line of a run list; the first is number 1.

    Raises:
        DataError: if there is no such file or line.
    """
    try:
        lines = run_list.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{run_list}: cannot be read: {error.strerror}", "it stands beside job.sh") from error
    if not 1 <= number <= len(lines):
        raise RecipeError(f"{run_list}: no line {number}, it has {len(lines)}")
    run, tab, command = lines[number - 1].partition("\t")
    if not tab:
        raise DataError(
            f"{run_list}:{number}: wanted a run id, a tab and a command", "write it again with `sweep submit`"
        )
    return run, command


def _new_folder(above: Path, name: str) -> Path:
    """Make and return the first of name-1, name-2, … that is not there."""
    number = 1
    while True:
        try:
            (folder := above / f"{name}-{number}").mkdir(parents=True)
            (folder / "log").mkdir()  # or SLURM fails every task without a word
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RunError(
                f"{above}: cannot be written: {error.strerror}", "choose another --results folder"
            ) from error


def _script(folder: Path, name: str, count: int, resources: Resources) -> str:
    options = {
        "job-name": name,
        "partition": resources.partition,
        "account": resources.account,
        "time": resources.time,
        "ntasks": 1,
        "gpus-per-task": resources.gpus_per_task,
        "requeue": "",
        "open-mode": "append",
        "signal": "B:USR2@120",
        "output": folder.resolve() / "log" / "%A_%a.txt",
        "chdir": Path.cwd(),
    }
    lines = [
        "#!/bin/bash",
        f"# Task N does line N of {RUN_LIST} beside this file ({count:,} runs). A preempted or timed-out task saves a checkpoint and",
        "# is requeued, and a finished run is skipped. An argument is added to N: the arrays after the first have one.",
        *(
            f"#SBATCH --{option}{f'={shlex.quote(str(value))}' if value != '' else ''}"
            for option, value in options.items()
            if value is not None
        ),
        "",
        "trap '' USR2    # until medpeft listens",
        *([resources.setup] if resources.setup else []),
        f"exec {shlex.quote(sys.executable)} -m medpeft_cli sweep task {shlex.quote(str((folder / RUN_LIST).resolve()))} "
        '"$((SLURM_ARRAY_TASK_ID + ${1:-0}))"',
    ]
    return "\n".join(lines) + "\n"
