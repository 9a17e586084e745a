"""Do the runs of a grid on this machine: several processes, each on its device, each a `medpeft finetune` of its own."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.errors import RecipeError
from medpeft_cli.files import unwritable
from medpeft_cli.recipe.grid import Cell
from medpeft_cli.runs.environment import cores
from medpeft_cli.runs.ranks import LAUNCHED
from medpeft_cli.runs.stop import NO_REQUEUE, asked_to_leave, leave_if_asked
from medpeft_cli.sweep.status import Standing, standing

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """A run that a process of ours is doing."""

    cell: Cell
    run_dir: Path
    process: subprocess.Popen[bytes]
    device: str | None  # CUDA_VISIBLE_DEVICES; None = as it is
    started: float  # by time.monotonic

    @property
    def last_line(self) -> str:
        """What it said last."""
        return (_last_lines(self.run_dir) or [""])[-1]

    @property
    def error(self) -> str:
        """What it said last, or the error above it if that is a hint."""
        errors = [line for line in _last_lines(self.run_dir) if line.startswith("error: ")]
        hinted = errors and self.last_line.startswith("hint: ")
        return errors[-1].removeprefix("error: ") if hinted else self.last_line


class Sweep:
    """Runs that are to be done, being done, and ended, by this process.

    Args:
        cells: runs, in the order in which they are started.
        results: folder of all results.
        devices: one entry for each run at a time: CUDA_VISIBLE_DEVICES, or None to leave that as it is.
        threads: of each process.
    """

    def __init__(self, cells: Sequence[Cell], results: Path, devices: Sequence[str | None], threads: int):
        self.todo = deque(cells)
        self.results, self.threads = results, threads
        self.free = list(devices)
        self.jobs: list[Job] = []
        self.ended: list[Standing] = []
        self.elsewhere: list[Standing] = []  # held by other processes
        self.seconds: list[float] = []  # that our finished runs took

    def run(self, show: Callable[[], None]) -> None:
        """Do all runs; `show` is called several times a second.

        Raises:
            Stopped: at a signal, after every run has saved a checkpoint.
            KeyboardInterrupt: at Ctrl-C, likewise; a second one does not wait for them.
            Exception: what `show` raises, likewise.
        """
        try:
            while self.todo or self.jobs:
                while self.todo and self.free and not asked_to_leave():
                    self._start(self.todo.popleft())
                self._collect()
                show()
                if asked_to_leave():
                    self._stop(show)
                    leave_if_asked()
                time.sleep(POLL_SECONDS)
        except BaseException as end:
            if isinstance(end, KeyboardInterrupt):
                console.say("stopping: every run saves a checkpoint first; Ctrl-C again does not wait")
            self._stop(show)
            raise
        finally:
            for job in self.jobs:  # after a second Ctrl-C
                job.process.kill()

    def _start(self, cell: Cell) -> None:
        run_dir = cell.run_dir(self.results)
        now = standing(run_dir)  # others may have been at work since the grid was read
        if now.state != "to do":
            (self.elsewhere if now.state == "running" else self.ended).append(now)
            return
        device = self.free.pop(0)
        environment = {"OMP_NUM_THREADS": str(self.threads)} | os.environ | {NO_REQUEUE: "1"}
        for name in LAUNCHED:  # by srun or torchrun is this process, not the run
            environment.pop(name, None)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        words = shlex.split(cell.command(self.results))[1:]
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with (run_dir / "log.txt").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "medpeft_cli", *words], env=environment,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,  # Ctrl-C is for this process, which then ends them gently
                )  # fmt: skip
        except OSError as error:
            self.free.append(device)
            self.ended.append(Standing(run_dir, "failed", unwritable(run_dir, error).message))
            return
        self.jobs.append(Job(cell, run_dir, process, device, time.monotonic()))

    def _collect(self) -> None:
        """Take note of the processes that have ended."""
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            self.free.append(job.device)
            now, code = standing(job.run_dir), job.process.returncode
            if now.state == "running":  # another process was faster
                self.elsewhere.append(now)
                continue
            if now.state == "to do" and code != 128 + signal.SIGTERM:  # it ended before it could say why
                why = f"killed by signal {-code}" if code < 0 else f"exit code {code}: {job.error}"
                now = Standing(job.run_dir, "failed", why)
            if now.state == "done":
                self.seconds.append(time.monotonic() - job.started)
            self.ended.append(now)

    def _stop(self, show: Callable[[], None]) -> None:
        """Ask every process to save and leave, and wait for them."""
        self.todo.clear()
        for job in self.jobs:
            job.process.send_signal(signal.SIGTERM)
        while any(job.process.poll() is None for job in self.jobs):
            with suppress(Exception):  # a terminal that was closed, for one
                show()
            time.sleep(POLL_SECONDS)
        self.jobs.clear()


def devices_of(gpus: str | None, jobs: int | None, demo: bool, jobs_per_gpu: int | None = None) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES for each run at a time: the GPUs in turn, or None to leave it as it is.

    Args:
        gpus: those to use; None = all that this process sees.
        jobs: runs at a time; None = one for each of `gpus`, or 1, or in a demo one a core.
        demo: whether the runs are small.
        jobs_per_gpu: runs at a time on each of the GPUs, in the place of `jobs`.

    Raises:
        RecipeError: if `gpus` is no list, both numbers of jobs are given, or no GPU is here for `jobs_per_gpu`.
    """
    if gpus is None:
        names, usual = _seen_gpus() or [None], cores() if demo else 1
    else:
        names = [name.strip() for name in gpus.split(",")]
        usual = len(names)
        if not all(names) or len(set(names)) < len(names):
            raise RecipeError(f"--gpus: got {gpus!r}, wanted different GPUs with commas between, such as 0,1")
    if jobs_per_gpu is not None:
        if jobs is not None:
            raise RecipeError(f"--jobs-per-gpu {jobs_per_gpu} and --jobs {jobs}: give one: on each GPU, or in all")
        if names == [None]:
            raise RecipeError("--jobs-per-gpu: no GPU is seen here", "--jobs is the number in all, on any machine")
        usual = jobs_per_gpu * len(names)
    return [names[i % len(names)] for i in range(jobs or usual)]


def _seen_gpus() -> list[str | None]:
    """Return the GPUs of this process as CUDA_VISIBLE_DEVICES has them; none where there are none, or no nvidia-smi."""
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [*re.findall(r"^GPU (\d+):", found, re.M)]


def _last_lines(run_dir: Path) -> list[str]:
    try:
        with (run_dir / "log.txt").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            return [line.strip() for line in log.read().decode("utf-8", "replace").strip().splitlines()]
    except OSError:
        return []
