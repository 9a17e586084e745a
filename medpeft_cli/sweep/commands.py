"""The commands of `medpeft sweep`; each body is one straight line, and heavy imports stand inside."""

from pathlib import Path
from typing import Annotated

import typer

from medpeft_cli.console import console
from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.options import Demo, Results, Set, examples

sweep_app = typer.Typer(
    help="Many runs at once: count them, run them here or on SLURM, see how they stand.",
    epilog=examples("medpeft sweep plan recipes/paper/all.yaml", "medpeft sweep run recipes/paper/table2.yaml --demo"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
Grid = Annotated[
    Path, typer.Argument(metavar="GRID", help="Grid file (docs/recipes.md), such as recipes/paper/*.yaml.")
]


@sweep_app.command(
    epilog=examples(
        "medpeft sweep plan recipes/paper/all.yaml",
        "medpeft sweep plan recipes/paper/figure1.yaml --commands > lines.sh",
    )
)
def plan(
    grid: Grid,
    overrides: Set = None,
    results: Results = Path("results"),
    demo: Demo = False,
    commands: Annotated[
        bool,
        typer.Option(
            "--commands", help="Print one `medpeft finetune …` line for each run; `# done` and the like stand behind."
        ),
    ] = False,
) -> None:
    """Count the runs of a grid: how many there are, how they stand, how long the rest will take."""
    from medpeft_cli.recipe.grid import expand
    from medpeft_cli.sweep.plan import breakdown, searches, time_left
    from medpeft_cli.sweep.show import left, listed_failures, retry_command, sentence
    from medpeft_cli.sweep.status import STATES, counts, groups_of_grid, standings_of

    cells = expand(grid, overrides, demo=demo)
    standings = standings_of(cells, results)
    if commands:
        for cell, stands in zip(cells, standings, strict=True):
            print(cell.command(results) + ("" if stands.state == "to do" else f"  # {stands.state}"))
        return
    remaining = time_left(cells, standings)
    groups = [
        group.row() | {"what": breakdown(cell for cell in cells if group.name in cell.grids)}
        for group in groups_of_grid(cells, standings)
    ]
    if console.json:
        runs = [
            stands.row() | {"grids": cell.grids, "command": cell.command(results)}
            for cell, stands in zip(cells, standings, strict=True)
        ]
        seconds = remaining.seconds if remaining else None
        whole = {"grid": str(grid), "count": len(runs), **counts(standings), "seconds_left": seconds}
        console.result(whole | {"grids": [{"grid": row.pop(""), **row} for row in groups], "runs": runs})
        return
    console.table(groups, ["", "runs", *STATES, "what"])
    shared = sum(len(cell.grids) > 1 for cell in cells)
    lines = [sentence(standings) + (f" ({shared:,} are in more than one grid)" if shared else "")]
    for line in [
        *lines,
        *filter(None, [searches(cells)]),
        left(remaining),
        *listed_failures(standings, retry_command(grid, overrides, results, demo)),
    ]:
        print(line)


@sweep_app.command(
    epilog=examples(
        "medpeft sweep run recipes/paper/table2.yaml --demo", "medpeft sweep run my_grid.yaml --gpus 0,1 --jobs 4"
    )
)
def run(
    grid: Grid,
    overrides: Set = None,
    results: Results = Path("results"),
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="J",
            help="Runs at a time. Default: one for each GPU of --gpus, or 1; a demo: one a core.",
            min=1,
        ),
    ] = None,
    jobs_per_gpu: Annotated[
        int | None,
        typer.Option(
            "--jobs-per-gpu",
            metavar="N",
            help="Runs at a time on each GPU of --gpus, or of all; without --jobs.",
            min=1,
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="LIST", help="GPUs to use in turn, such as 0,1. Default: those that are here."),
    ] = None,
    demo: Demo = False,
) -> None:
    """Do the runs of a grid on this machine, several at a time.

    What is done is skipped, what was interrupted goes on; failed runs wait for `sweep retry`. Ctrl-C or a closed terminal
    saves a checkpoint of every run and stops. Several of these at once, also on several hosts with one file system, share
    the work.
    """
    from medpeft_cli.runs.stop import stoppable

    with stoppable(hangup=True):
        from medpeft_cli.recipe.grid import expand
        from medpeft_cli.runs.environment import cores
        from medpeft_cli.sweep.local import Sweep, devices_of
        from medpeft_cli.sweep.show import listed_failures, live_view, retry_command, sentence
        from medpeft_cli.sweep.status import counts, standings_of

        cells = expand(grid, overrides, demo=demo)
        before = standings_of(cells, results)
        devices = devices_of(gpus, jobs, demo, jobs_per_gpu)
        console.say(sentence(before))
        todo = [cell for cell, stands in zip(cells, before, strict=True) if stands.state == "to do"]
        sweep = Sweep(todo, results, devices, max(1, cores() // len(devices)))
        with live_view(sweep, grid.stem) as show:
            sweep.run(show)
    after = standings_of(cells, results)
    unrecorded = [stands for stands in sweep.ended if stands.state == "failed" and stands not in after]
    for line in [
        sentence(after),
        *listed_failures([*after, *unrecorded], retry_command(grid, overrides, results, demo)),
    ]:
        console.say(line)
    console.result({"count": len(cells), **counts(after)})
    if any(stands.state == "failed" for stands in [*after, *unrecorded]):
        raise typer.Exit(RunError.exit_code)


@sweep_app.command(
    epilog=examples("medpeft sweep status results/", "medpeft sweep status recipes/paper/table2.yaml --watch")
)
def status(
    target: Annotated[
        Path,
        typer.Argument(metavar="RESULTS|GRID", help="Folder of runs, or a grid file: then also what is not begun."),
    ],
    overrides: Set = None,
    results: Results = Path("results"),
    demo: Demo = False,
    watching: Annotated[bool, typer.Option("--watch", help="Look again every 5 s until nothing is left.")] = False,
) -> None:
    """Show how runs stand, and why runs failed. Reads records only."""
    from medpeft_cli.sweep import show
    from medpeft_cli.sweep.status import Group, Standing, counts, groups_of_grid, groups_of_results, standings_of

    if target.is_dir():
        again = None

        def read() -> tuple[list[Group], list[Standing]]:
            groups = groups_of_results(target)
            return groups, [stands for group in groups for stands in group.standings]
    else:
        from medpeft_cli.recipe.grid import expand

        cells, again = expand(target, overrides, demo=demo), show.retry_command(target, overrides, results, demo)

        def read() -> tuple[list[Group], list[Standing]]:
            standings = standings_of(cells, results)
            return groups_of_grid(cells, standings), standings

    if watching:
        show.watch(read, again)
        return
    groups, standings = read()
    if console.json:
        console.result({"count": len(standings), **counts(standings), "runs": [one.row() for one in standings]})
    else:
        show.print_status(groups, standings, again)


@sweep_app.command(
    epilog=examples(
        "medpeft sweep retry recipes/paper/table2.yaml            # which failed, and why",
        "medpeft sweep retry recipes/paper/table2.yaml --failed",
    )
)
def retry(
    grid: Grid,
    failed: Annotated[bool, typer.Option("--failed", help="Put them back; without it they are only listed.")] = False,
    overrides: Set = None,
    results: Results = Path("results"),
    demo: Demo = False,
) -> None:
    """Put the failed runs of a grid back among those to be done.

    The next `sweep run` or `sweep submit` takes them up, from their last checkpoint.
    """
    from medpeft_cli.recipe.grid import expand
    from medpeft_cli.sweep.show import listed_failures, retry_command
    from medpeft_cli.sweep.status import failures, put_back, standings_of

    standings = standings_of(expand(grid, overrides, demo=demo), results)
    lines = listed_failures(standings, None if failed else retry_command(grid, overrides, results, demo))
    found, problems = put_back(standings) if failed else (failures(standings), [])
    lines.append(f"{len(found):,} run{'' if len(found) == 1 else 's'} {'put back' if failed else 'failed'}")
    console.result([stands.row() for stands in found], "\n".join(lines))
    for error in problems:
        console.error(error)
    if problems:
        raise typer.Exit(DataError.exit_code)


@sweep_app.command(
    epilog=examples(
        "medpeft sweep submit recipes/paper/table2.yaml --partition gpu --time 4:00:00 --gpus-per-task 1 --array-limit 20",
        "medpeft sweep submit recipes/paper/all.yaml --setup 'module load cuda' --dry-run",
    )
)
def submit(
    grid: Grid,
    overrides: Set = None,
    results: Results = Path("results"),
    partition: Annotated[str | None, typer.Option("--partition", metavar="P", help="As sbatch takes it.")] = None,
    time: Annotated[str | None, typer.Option("--time", metavar="T", help="Limit of each run, such as 4:00:00.")] = None,
    gpus_per_task: Annotated[
        int | None,
        typer.Option("--gpus-per-task", metavar="N", help="GPUs of each run, which is trained on all of them.", min=0),
    ] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="A", help="As sbatch takes it.")] = None,
    array_limit: Annotated[
        int | None, typer.Option("--array-limit", metavar="K", help="Most tasks of an array at a time.", min=1)
    ] = None,
    setup: Annotated[
        str | None,
        typer.Option("--setup", metavar="LINE", help="Shell line before each run, such as 'module load cuda'."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="JOB", help="Start once this job has succeeded: the one that prepares the data."
        ),
    ] = None,
    demo: Demo = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write script and run list, print the sbatch lines, submit nothing.")
    ] = False,
) -> None:
    """Hand the runs of a grid that are to do to SLURM as a job array, print the job ids, and leave.

    Writes a readable job.sh and the list of runs to DIR/sweeps/. Tasks that are preempted or meet their time limit are
    requeued and go on from their checkpoint. Runs that are running are in the list too, in case they are not in truth: a
    process that was killed is noticed only after minutes. Their tasks leave them alone.
    """
    import shlex

    from medpeft_cli.recipe.grid import expand
    from medpeft_cli.sweep import slurm
    from medpeft_cli.sweep.show import sentence
    from medpeft_cli.sweep.status import standings_of

    cells = expand(grid, overrides, demo=demo)
    standings = standings_of(cells, results)
    console.say(sentence(standings))
    todo = [cell for cell, stands in zip(cells, standings, strict=True) if stands.state in ("to do", "running")]
    if not todo:
        console.say("nothing to submit")
        console.result({"jobs": [], "count": 0})
        return
    largest = slurm.largest_array()
    script = slurm.write_job(
        todo, results, grid.stem, slurm.Resources(partition, time, gpus_per_task, account, array_limit, setup)
    )
    commands = slurm.array_commands(script, len(todo), largest, array_limit, after)
    console.say(f"wrote {script} and {script.parent / slurm.RUN_LIST}, {len(todo):,} runs")
    if dry_run:
        console.result([shlex.join(words) for words in commands], "\n".join(map(shlex.join, commands)))
        return
    jobs: list[str] = []
    try:
        for words in commands:
            jobs.append(slurm.submit(words))
    finally:
        console.result({"jobs": jobs, "count": len(todo), "script": str(script)}, "\n".join(jobs))


@sweep_app.command(
    epilog=examples(
        'medpeft sweep task results/sweeps/table2-1/runs.tsv "$SLURM_ARRAY_TASK_ID"',
        "medpeft sweep task results/sweeps/table2-1/runs.tsv 17",
    )
)
def task(
    run_list: Annotated[Path, typer.Argument(metavar="RUNS", help="The runs.tsv that `sweep submit` has written.")],
    number: Annotated[int, typer.Argument(metavar="N", help="Line of it; the first is 1.")],
) -> None:
    """Do one run of a submitted list: what a task of the array does.

    Skips a finished run, leaves one alone on which another process works, and one that failed to `sweep retry`.
    """
    from medpeft_cli.runs.stop import stoppable

    with stoppable():
        import shlex

        from typer.main import get_command

        from medpeft_cli.cli import app
        from medpeft_cli.recipe.identity import run_id
        from medpeft_cli.recipe.load import load_recipe
        from medpeft_cli.runs.lock import BusyError
        from medpeft_cli.runs.skip import run_directory
        from medpeft_cli.runs.start import start_run
        from medpeft_cli.sweep.slurm import listed_run
        from medpeft_cli.sweep.status import standing

        run, command = listed_run(run_list, number)
        words = get_command(app).commands["finetune"].make_context("finetune", shlex.split(command)[2:]).params  # type: ignore[attr-defined]
        fields = [f"{name}={words[name]}" for name in ("seed", "track") if words[name] is not None]
        loaded = load_recipe(words["recipe"], [*(words["overrides"] or []), *fields], demo=words["demo"])
        if (now := run_id(loaded.recipe)) != run:
            raise RecipeError(
                f"{words['recipe']}: has changed since it was submitted: the run was {run}, and is now {now}",
                "undo the change, or submit the grid again",
            )
        before = standing(run_directory(loaded.path, loaded.recipe, words["results"]))
        if before.state == "failed":
            raise RunError(
                f"{before.run_dir}: failed before: {before.note}",
                "`medpeft sweep retry GRID --failed` puts it back; or run its line alone",
            )
        try:
            run_dir = start_run(loaded, words["results"], command, evaluate=words["evaluate"], processes=words["gpus"])
        except BusyError as error:
            console.say(f"nothing to do: {error.message}")
            return
        console.result({"run": str(run_dir)}, str(run_dir))
