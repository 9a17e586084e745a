"""Share the packing of a dataset among processes, and tell how far it is."""

import gc
import mmap
import multiprocessing as mp
import os
import signal
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue

import numpy as np

from medpeft_cli.console import console
from medpeft_cli.data.pack import OTHERS, Pieces, work
from medpeft_cli.errors import RunError
from medpeft_cli.malloc import keep_freed_memory

POLL_SECONDS = 0.25


def pack(pieces: Pieces, label: str, workers: int) -> None:
    """Make all pieces that are not there yet; pieces that are there are checked and kept.

    Processes are forked, so that samples and open archives are shared and not copied. One piece, or one worker, needs none.

    Args:
        pieces: what there is to do.
        label: name at the progress bar.
        workers: processes.

    Raises:
        RunError: if a process is killed.
        OSError: if the store cannot be written.
    """
    kept = [number for number in range(len(pieces)) if pieces.is_done(number)]
    workers = max(1, min(workers, len(pieces)))
    team = _Team(pieces, kept, workers)
    if workers > 1:
        team.start()  # before the progress bar starts its thread
    try:
        with console.progress(len(pieces.samples), label, "images") as advance:
            told = sum(len(pieces.members(number)) for number in kept)
            if kept:
                advance(told, note="checking what is kept", resumed=True)
            for _ in team.wait() if workers > 1 else team.alone():
                done = min(team.images(), len(pieces.samples))
                advance(done - told, note="")
                told = max(done, told)
    finally:
        team.end()


class _Team:
    """The processes of one command, and two counters that they share: no locks, each place has one writer or one value."""

    def __init__(self, pieces: Pieces, kept: list[int], workers: int):
        self.pieces, self.kept, self.workers = pieces, kept, workers
        self.packed = np.frombuffer(mmap.mmap(-1, 8 * workers), np.int64)  # pictures, by process
        self.maker = np.frombuffer(mmap.mmap(-1, max(len(pieces), 1)), np.int8)  # by piece
        self.maker[kept] = OTHERS
        self.lengths = np.array([len(pieces.members(number)) for number in range(len(pieces))], dtype=np.int64)
        self.processes: list[mp.process.BaseProcess] = []

    def images(self) -> int:
        """Return how many pictures are done."""
        return int(self.packed.sum() + self.lengths[self.maker[: len(self.lengths)] == OTHERS].sum())

    def alone(self):  # noqa: ANN201
        """Work in this process; yields after each picture."""
        yield from work(self.pieces, self.kept, (0, 1), self.packed, self.maker)
        yield

    def start(self) -> None:
        """Fork the processes."""
        context = mp.get_context("fork")
        self.failures: SimpleQueue = context.SimpleQueue()
        gc.freeze()  # the collector of a child would copy the pages that it shares
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries: none of them is used in a child
            for share in range(self.workers):
                process = context.Process(target=self._run, args=(share, os.getpid()), daemon=True)
                process.start()
                self.processes.append(process)
        gc.unfreeze()

    def _run(self, share: int, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the others
        keep_freed_memory()
        try:
            for _ in work(self.pieces, self.kept, (share, self.workers), self.packed, self.maker):
                if os.getppid() != parent:
                    os._exit(1)
        except BaseException as error:
            error.add_note(traceback.format_exc())
            try:
                self.failures.put(error)
            except Exception:  # an error that cannot be pickled
                self.failures.put(RuntimeError(traceback.format_exc()))
            os._exit(1)

    def wait(self):  # noqa: ANN201
        """Yield now and then until all have ended.

        Raises:
            RunError: if one was killed.
        """
        running = list(self.processes)
        while running:
            ended = wait([process.sentinel for process in running], POLL_SECONDS)
            for process in [process for process in running if process.sentinel in ended]:
                process.join()
                running.remove(process)
                if process.exitcode == 1 and not self.failures.empty():
                    raise self.failures.get()
                if process.exitcode:
                    raise RunError(
                        f"a packing process ended with exit code {process.exitcode}",
                        "if it ran out of memory, give fewer --workers; what is packed is kept, the same command goes on",
                    )
            yield

    def end(self) -> None:
        """End the processes that still run."""
        for process in self.processes:
            with suppress(ValueError):
                process.kill()
                process.join()
                self.pieces.forget(process.pid)
