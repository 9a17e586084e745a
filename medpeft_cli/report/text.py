"""What every rendering says in the same words: values, counts, titles, captions, notes. Plain text, not yet escaped."""

import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby

from medpeft_cli.report.records import Problem, Run
from medpeft_cli.report.table import RANK_DIGITS, Block, Cell, Table

LONGEST = 60  # characters of a label that comes from data
FAMILIES = {"cnn": "CNN backbones", "vit": "ViT backbones", "unet": "text-to-image U-Nets"}
STATES = {"missing": "–", "undefined": "undefined"}
ROW_FIELDS = ("data.card", "data.root", "data.fraction", "data.k_shot", "backbone.name", "backbone.weights")
TO_RUN = "To fill the missing cells and seeds"
DEMO = "DEMO (synthetic data, bundled tiny backbone)"


def clean(text: str, longest: int = LONGEST) -> str:
    """Return text from data on one line: no control or direction-changing characters, shortened to `longest`."""
    spaced = " ".join(str(text).split())
    shown = "".join("�" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn") else sign for sign in spaced)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def markdown(text: str) -> str:
    """Return text with every sign escaped that Markdown would take for its own."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|#&$~" else sign for sign in text)


def count(number: int) -> str:
    """Return a count in three digits: 768, 59.3K, 85.8M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit * 0.9995:
            return f"{number / limit:#.3g}".rstrip(".") + unit
    return str(number)


def parameters(seen: tuple[tuple[int, ...], tuple[int, ...]] | None) -> tuple[str, str]:
    """Return trainable parameters of the method and of the head; ranges where the rows differ."""
    if seen is None:
        return "–", ""
    method, head = (count(each[0]) if len(each) == 1 else f"{count(each[0])}–{count(each[-1])}" for each in seen)
    return method, f"+ {head}"


def spread(cell: Cell, digits: int) -> str:
    """Return what stands behind a mean: ± sd, the bootstrap interval of a single run, or nothing."""
    if cell.sd is not None:
        return f"± {cell.sd:.{digits}f}"
    if cell.interval is not None:
        return f"[{cell.interval[0]:.{digits}f}, {cell.interval[1]:.{digits}f}]"
    return ""


def value(cell: Cell, digits: int) -> str:
    """Return the mean, or what a cell without a value shows."""
    return STATES.get(cell.state, cell.state) if cell.mean is None else fixed(cell.mean, digits)


def fixed(number: float | None, digits: int) -> str:
    """Return a number with fixed digits; a dash for None."""
    return "–" if number is None else f"{number:.{digits}f}"


def seeds_shown(table: Table, cell: Cell) -> str:
    """Return "(n)" for a cell with another number of seeds than most of its table."""
    return f"({len(cell.values)})" if cell.values and len(cell.values) != table.seeds[0] else ""


def summaries(table: Table, block: Block) -> list[tuple[str, list[str], tuple[str, ...]]]:
    """Return (name, numbers, marks) of the means and of the ranks of a block, where it has them."""
    said = []
    if any(mean is not None for mean in block.means):
        said.append(("Mean", [fixed(mean, table.info.digits) for mean in block.means], block.mean_marks))
    if block.ranked_rows:
        said.append(("Rank", [fixed(rank, RANK_DIGITS) for rank in block.ranks], block.rank_marks))
    return said


def column_title(labels: Mapping[str, str]) -> str:
    """Return the heading of a column: its labels, and what tells its recipe apart."""
    title = " · ".join(clean(label) for name, label in labels.items() if name != "variant")
    return f"{title} ({clean(labels['variant'])})" if labels.get("variant") else title


def varying(table: Table) -> list[str]:
    """Return the row dimensions that differ between rows; the others go into the title."""
    return [name for name in table.spec.rows if len({row[name] for row in table.rows}) > 1]


def heading(table: Table, block: Block) -> str:
    """Return what the rows of a block share and other blocks do not."""
    names = [name for name in varying(table) if name != table.across]
    return " · ".join(label(name, table.rows[block.rows[0]][name]) for name in names)


def label(name: str, value: str) -> str:
    """Return a row label that can stand alone."""
    return f"{clean(value)} of the training split" if name == "fraction" else clean(value)


def title(table: Table) -> str:
    """Return the title; demo results say so first."""
    text = table.spec.title or f"{table.info.title}, {FAMILIES.get(table.family, clean(table.family))}"
    return f"{DEMO}: {text}" if table.demo else text[0].upper() + text[1:]


def subtitle(table: Table) -> str:
    """Return what all rows share."""
    apart = {*varying(table), table.across}
    return " · ".join(label(name, table.rows[0][name]) for name in table.spec.rows if name not in apart)


def protocol(table: Table) -> list[str]:
    """Return the sentences of a caption: metric, averaging, test images, seeds, what ± is, marks, counts, ranks."""
    better = "higher" if table.info.higher_is_better else "lower"
    cells = [cell for row in table.cells for cell in row if cell.values]
    said = [f"{table.info.definition}, {better} is better, on the test split ({_test_images(table)})."]
    said[0] = said[0][0].upper() + said[0][1:]
    if not cells:
        return [*said, "No run has a result yet."]
    seeds = table.seeds
    if max(seeds) > 1:
        number = f"{seeds[0]} seeds" if len(seeds) == 1 else f"seeds ({seeds[0]}, or the number in parentheses)"
        said.append(f"Mean ± sample standard deviation over {number}, both on the scale of the metric.")
    if 1 in seeds:
        which = "One seed: no standard deviation" if max(seeds) == 1 else "A single seed has no standard deviation"
        drawn = sorted({_interval(cell) for cell in cells if cell.interval})
        said.append(f"{which}; brackets: {' or '.join(drawn)}." if drawn else f"{which}.")
    if searched := _searched(run for cell in cells for run in cell.runs):
        said.append(searched)
    if any(cell.mark for cell in cells):
        said.append("The best of each setting is bold, the second best underlined; equal printed values share a mark.")
    if any(block.parameters != (None,) * len(table.columns) for block in table.blocks):
        said.append("Parameters: trainable ones of the method + of the head.")
    if ranked := sorted({block.ranked_rows for block in table.blocks if block.ranked_rows}):
        rows = "–".join(map(str, sorted({ranked[0], ranked[-1]})))
        said.append(
            f"Rank: average over the {rows} datasets where every method has a value; ties get the mean of their places."
        )
    return said


def _searched(runs: Iterable[Run]) -> str:
    """Return how the values of the runs were chosen: the fields, and the trials behind each cell; "" if none searched."""
    budgets: set[int] = set()
    fields: set[str] = set()
    for run in runs:
        trials, space = run.setting("search", "trials"), run.setting("search", "space")
        searching = isinstance(trials, int) and trials > 0 and isinstance(space, dict)
        budgets.add(trials if searching else 0)
        fields |= set(space) if searching else set()
    if budgets <= {0}:
        return ""
    numbers = " or ".join(f"{budget:,}" for budget in sorted(budgets))
    unequal = ", not the same for all" if len(budgets) > 1 else ""
    return f"Chosen on the validation split: {clean(', '.join(sorted(fields)))}, by {numbers} trials{unequal}."


def notes(table: Table, revisions: Iterable[int]) -> list[str]:
    """Return what the reader has to know beside the caption: what is apart, what has no value and why."""
    said = []
    if len(set(revisions)) > 1:
        said.append(f"Results revision {table.results_revision} only: runs of different revisions are never averaged")
    if _versions_apart(table):
        said.append("A dataset has several versions (pictures, splits or card): no average, mean or rank joins them")
    if any(column["variant"] for column in table.columns):
        said.append("Recipes of one method differ: each has a column that names what differs")
    for row, cells in zip(table.rows, table.cells, strict=True):
        absent = [column_title(c) for c, cell in zip(table.columns, cells, strict=True) if cell.state == "missing"]
        if absent:
            where = " · ".join(label(name, row[name]) for name in varying(table) or [table.across])
            said.append(f"No run: {where}: {', '.join(absent)}")
    others = [run for row in table.cells for cell in row for run in cell.others]
    undefined = f"{table.info.title} is undefined"
    said += sorted(f"{clean(run.id, 120)}: {undefined if run.test else clean(run.reason, 200)}" for run in others)
    return said


def to_run(table: Table, i: int, j: int) -> list[str]:
    """Return a command for each seed that a missing cell, or one with fewer seeds than most, has not run.

    It is the command behind the cell itself or another cell of the column, with what makes the row (data, backbone) set to
    the row's, and the seed. None where the records cannot tell.
    """
    cell = table.cells[i][j]
    if cell.others and not cell.values:  # its runs are listed with what became of them
        return []
    tried = {run.seed for run in (*cell.runs, *cell.others)}
    number = max(table.seeds[0] if table.seeds else 1, 1)
    usual = Counter(run.seed for row in table.cells for each in row for run in (*each.runs, *each.others))
    seeds = sorted(seed for seed, _ in usual.most_common(number) if seed not in tried)[: number - len(tried)]
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


def leftovers(unplaced: Iterable[Run], problems: Iterable[Problem]) -> list[str]:
    """Return a line for each run without a place in a table and each record that could not be used."""
    lines = [f"{clean(run.id, 120)}: {clean(run.reason, 200)}" for run in unplaced]
    return lines + [f"{clean(path, 120)}: {clean(reason, 200)}" for path, reason in problems]


def _test_images(table: Table) -> str:
    sizes = sorted({(run.card.title if run.card else "", run.test.n) for run in table.runs if run.test})
    if not sizes:
        return "no image scored"
    named = [
        (clean(name), " or ".join(f"{number:,}" for _, number in group))
        for name, group in groupby(sizes, lambda size: size[0])
    ]
    return (
        f"{named[0][1]} images"
        if len(named) == 1
        else "images: " + ", ".join(f"{name} {number}" for name, number in named)
    )


def _versions_apart(table: Table) -> bool:
    return any(
        run.card and row.get("dataset", run.card.title) != run.card.title
        for row, cells in zip(table.rows, table.cells, strict=True)
        for cell in cells
        for run in (*cell.runs, *cell.others)
    )


def _interval(cell: Cell) -> str:
    scores = cell.runs[0].test
    stated = scores.protocol if scores else {}
    confidence, unit = stated.get("confidence"), clean(stated.get("unit", "image"))
    level = f"{100 * confidence:.4g} % " if isinstance(confidence, int | float) else ""
    return f"{level}bootstrap interval over test {unit}s"
