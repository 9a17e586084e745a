"""Start a run: skip what is finished, hold the run against other processes, and only then import torch."""

import signal
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.runs.ranks import Place, launched
from medpeft_cli.runs.skip import finished_run, run_directory


def start_run(
    loaded: Loaded, results: Path, command: str, *, evaluate: bool = True, processes: int | None = None
) -> Path:
    """Do a run unless it is finished, and return its directory.

    Args:
        loaded: the resolved recipe.
        results: folder of all results; the run's own folder is results/<recipe stem>/<run id>.
        command: the command line, kept in the record.
        evaluate: score the test split at the end.
        processes: that train the run together, started here; None = those that srun or torchrun has started, this one among
            them, or this one alone.

    Raises:
        RunError: if another process works on the run; and whatever ends it.
    """
    place = None if processes == 1 else launched()
    if place is None:
        return _lead(loaded, results, command, evaluate, processes or 1)
    if processes not in (None, place.size):
        raise RecipeError(
            f"--gpus {processes}: {place.size} processes were started together",
            "leave it out; --gpus 1 gives each a run of its own",
        )
    return _join(place, loaded, results, command, evaluate)


def _lead(loaded: Loaded, results: Path, command: str, evaluate: bool, processes: int = 1) -> Path:
    """Do a run as the process that holds it, alone or with others that it starts."""
    if run_dir := finished_run(loaded, results, evaluate=evaluate):
        console.say(f"finished already: {run_dir}")
        return run_dir
    run_dir = run_directory(loaded.path, loaded.recipe, results)
    with run_lock(run_dir):
        if finished_run(loaded, results, evaluate=evaluate):  # by another process, just now
            return run_dir
        from medpeft_cli.engine.tasks import run_recipe

        if processes == 1:
            run_recipe(loaded, results, command, evaluate=evaluate)
            return run_dir
        from medpeft_cli.engine.join import joined

        def start(port: int) -> list[BaseProcess]:
            places = [Place(rank, processes, rank, processes, port=port) for rank in range(1, processes)]
            return _started([(place, loaded, results, command, evaluate) for place in places])

        with joined(Place(0, processes, 0, processes), loaded.recipe, str(run_dir), start):
            run_recipe(loaded, results, command, evaluate=evaluate)
    return run_dir


def _join(place: Place, loaded: Loaded, results: Path, command: str, evaluate: bool) -> Path:
    """Do a run as one of several processes; only process 0 returns."""
    from medpeft_cli.engine.join import joined
    from medpeft_cli.engine.tasks import run_recipe

    with joined(place, loaded.recipe, str(run_directory(loaded.path, loaded.recipe, results))):
        if place.rank == 0:
            return _lead(loaded, results, command, evaluate)
        return run_recipe(loaded, results, command, evaluate=evaluate)


def _started(arguments: list[tuple]) -> list[BaseProcess]:
    """Start the other processes, deaf to signals: this one hears them, and tells."""
    resource_tracker.ensure_running()  # its start would open the ears again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2))
    try:
        others: list[BaseProcess] = [
            get_context("spawn").Process(target=_join, args=each, daemon=True) for each in arguments
        ]
        for process in others:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return others
