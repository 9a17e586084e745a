"""Start a run: skip what is finished, hold the run against other processes, and only then import torch."""

from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.runs.skip import finished_run, run_directory


def start_run(loaded: Loaded, results: Path, command: str, *, evaluate: bool = True) -> Path:
    """Do a run unless it is finished, and return its directory.

    Args:
        loaded: the resolved recipe.
        results: folder of all results; the run's own folder is results/<recipe stem>/<run id>.
        command: the command line, kept in the record.
        evaluate: score the test split at the end.

    Raises:
        RunError: if another process works on the run; and whatever ends it.
    """
    if run_dir := finished_run(loaded, results, evaluate=evaluate):
        console.say(f"finished already: {run_dir}")
        return run_dir
    run_dir = run_directory(loaded.path, loaded.recipe, results)
    with run_lock(run_dir):
        if not finished_run(loaded, results, evaluate=evaluate):  # by another process, just now
            from medpeft_cli.engine.tasks import run_recipe

            run_recipe(loaded, results, command, evaluate=evaluate)
    return run_dir
