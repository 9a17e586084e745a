"""The commands that fill missing cells and seeds, made of the commands that ran."""

import json
import shlex

from medpeft_cli.report.records import Run
from medpeft_cli.report.table import Table
from medpeft_cli.report.text import clean

ROW_FIELDS = ("data.card", "data.root", "data.fraction", "data.k_shot", "backbone.name", "backbone.weights")


def to_run(table: Table, i: int, j: int) -> list[str]:
    """Return a command for each seed that a missing cell, or one with fewer seeds than most, has not run.

    It is the command behind the cell itself or another cell of the column, with what makes the row (data, backbone) set to
    the row's, and the seed. None where the records cannot tell.
    """
    cell = table.cells[i][j]
    if cell.others and not cell.values:  # its runs are listed with what became of them
        return []
    tried = {run.seed for run in (*cell.runs, *cell.others)}
    usual = table.usual_seeds
    if not (seeds := sorted(set(usual) - tried)[: max(len(usual) - len(tried), 0)]):
        return []
    here = next(run for each in table.cells[i] for run in (*each.runs, *each.others))
    column = list(cell.runs) or [run for row in table.cells for run in (*row[j].runs, *row[j].others)]
    found = [_command(cell.runs[0] if cell.runs else here, column, seed, own=bool(cell.runs)) for seed in seeds]
    return [command for command in found if command]


def _command(here: Run, column: list[Run], seed: int, *, own: bool) -> str:
    """Return the command of a run of a column, changed to the row of another run and to a seed; "" if there is none."""
    there = next((run for run in column if run.seed == seed), column[0])
    changed = {}
    for name in ROW_FIELDS:
        if name == "data.root" and _root_follows_card(here, there):
            continue
        wanted = here.setting(*name.split("."))
        if wanted != there.setting(*name.split(".")):
            changed[name] = wanted if isinstance(wanted, str) else json.dumps(wanted)
    try:
        words = shlex.split(there.command or "")
    except ValueError:
        return ""
    if not (changed or own) or words[:1] != ["medpeft"] or "finetune" not in words:
        return ""
    if there.seed != seed:
        words = [*_without_seed(words), "--seed", str(seed)]
    return clean(
        shlex.join([*words, *(word for name in changed for word in ("--set", f"{name}={changed[name]}"))]), 2000
    )


def _root_follows_card(here: Run, there: Run) -> bool:
    """Return whether both read `<folder>/<card>` of one folder, as they do where no recipe sets data.root."""
    roots = [run.setting("data", "root") for run in (here, there)]
    folders = {
        str(root).removesuffix(f"/{run.card.name if run.card else ''}")
        for root, run in zip(roots, (here, there), strict=True)
    }
    return len(folders) == 1 and not folders & set(map(str, roots))


def _without_seed(words: list[str]) -> list[str]:
    """Return the words of a command without --seed N and --set seed=N."""
    kept: list[str] = []
    for word in words:
        if kept and (kept[-1] == "--seed" or (kept[-1] == "--set" and word.startswith("seed="))):
            kept.pop()
        elif not word.startswith(("--seed=", "--set=seed=")):
            kept.append(word)
    return kept


def commands(table: Table) -> list[str]:
    """Return the commands that fill the missing cells and seeds."""
    every = (to_run(table, i, j) for i in range(len(table.rows)) for j in range(len(table.columns)))
    return list(dict.fromkeys(command for several in every for command in several))
