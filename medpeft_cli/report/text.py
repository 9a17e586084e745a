"""What every rendering says in the same words: values, counts, titles, captions, notes. Plain text, not yet escaped."""

import unicodedata
from collections.abc import Iterable, Mapping
from itertools import groupby

from medpeft_cli.report.ranks import TIES
from medpeft_cli.report.records import Problem, Run
from medpeft_cli.report.table import Block, Cell, Table

LONGEST = 60  # characters of a label that comes from data
OVER = {"dataset": "datasets", "fraction": "training sets"}
FAMILIES = {"cnn": "CNN backbones", "vit": "ViT backbones", "unet": "text-to-image U-Nets"}
STATES = {"missing": "–", "undefined": "undefined"}
TO_RUN = "To fill the missing cells and seeds"
DEMO = "DEMO (synthetic data, bundled tiny backbone)"


def clean(text: str, longest: int = LONGEST) -> str:
    """Return text from data on one line: no control or direction-changing characters, shortened to `longest`."""
    shown = " ".join(str(text).split())
    if not shown.isprintable():
        shown = "".join("�" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn") else sign for sign in shown)
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


def signed(number: float, digits: int) -> str:
    """Return a difference with its sign; one that vanishes in these digits has none."""
    shown = f"{abs(number):.{digits}f}"
    return shown if float(shown) == 0 else f"{'+' if number > 0 else '−'}{shown}"


def seeds_shown(table: Table, cell: Cell) -> str:
    """Return "(n)" for a cell with another number of seeds than most of its table."""
    return f"({len(cell.values)})" if cell.values and len(cell.values) != table.seeds[0] else ""


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
    """Return the title, with an arrow towards the better side; demo results say so first."""
    return titled(table, f"{table.info.title} {'↑' if table.info.higher_is_better else '↓'}")


def titled(table: Table, what: str) -> str:
    """Return the title of something about a table's runs."""
    text = f"{what}, {FAMILIES.get(table.family, clean(table.family))}"
    if table.spec.name == "table5":
        text += " pre-trained without labels"
    return f"{DEMO}: {text}" if table.demo else capitalised(text)


def capitalised(words: str) -> str:
    """Return words with a capital first letter, the rest as it is."""
    return words[:1].upper() + words[1:]


def row_label(table: Table, i: int) -> str:
    """Return the label of a row; training images in parentheses, as the paper has them, where all its runs saw as many."""
    label = clean(table.rows[i][table.across])
    runs = [run for cell in table.cells[i] for run in (*cell.runs, *cell.others)]
    sizes = {run.data.train_images for run in runs if run.data and run.data.train_images is not None}
    return f"{label} ({sizes.pop():,})" if table.across in ("dataset", "fraction") and len(sizes) == 1 else label


def subtitle(table: Table) -> str:
    """Return what all rows share."""
    apart = {*varying(table), table.across}
    return " · ".join(label(name, table.rows[0][name]) for name in table.spec.rows if name not in apart)


def protocol(table: Table) -> list[str]:
    """Return the sentences of a caption: metric, averaging, test images, seeds, what ± is, marks, counts, ranks."""
    better = "higher" if table.info.higher_is_better else "lower"
    cells = [cell for row in table.cells for cell in row if cell.values]
    said = [capitalised(f"{table.info.definition}, {better} is better, on the test split ({_test_images(table)}).")]
    if table.judged:
        said.append(f"{capitalised(clean(table.judged, 400))}.")
    if table.spec.name.startswith("table"):
        said.insert(0, f"Layout of Table {table.spec.name[5:]} of Dutt et al. (MIDL 2024).")
    if any(row_label(table, i) != clean(row[table.across]) for i, row in enumerate(table.rows)):
        said.append("Behind each label: training images.")
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
    if not parameters_apart(table) and any(any(block.parameters) for block in table.blocks):
        said.append("Parameters: trainable ones of the method + of the head.")
    if any(mean is not None for block in table.blocks for mean in block.means):
        said.append(f"Mean: over the {OVER.get(table.across, 'rows')}, each counted once.")
    ranked = sorted({b.ranked_rows for b in ([table.combined] if table.combined else table.blocks) if b.ranked_rows})
    if ranked:
        rows = "–".join(map(str, sorted({ranked[0], ranked[-1]})))
        over = "rows" if table.combined else OVER.get(table.across, "rows")
        said.append(f"Rank: average over the {rows} {over} where every method has a value; {TIES[table.spec.ties]}.")
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


def parameters_apart(table: Table) -> bool:
    """Return whether the parameters of a table are in one of their own, as the paper has those of its ViTs in Table 6."""
    return table.spec.name in ("table3", "table5") and len(table.blocks) > 1


def parameter_protocol() -> list[str]:
    """Return the sentences under a table of parameters."""
    return [
        "Layout of Table 6 of Dutt et al. (MIDL 2024).",
        "Trainable parameters of the method + of the head; a range where datasets differ in classes.",
    ]


def notes(table: Table, revisions: Iterable[int], filtered: str = "") -> list[str]:
    """Return what the reader has to know beside the caption: what is apart, what has no value and why.

    Args:
        table: of results.
        revisions: of the results in the whole report.
        filtered: which runs were asked for, and how many others there are; "" for all.
    """
    said = [filtered] if filtered else []
    if len(set(revisions)) > 1:
        said.append(f"Results revision {table.results_revision} only: runs of different revisions are never averaged")
    if table.added:
        said.append(
            f"Not asked for as rows, but not equal in all runs, and so rows too: {', '.join(table.added)}. --where chooses one of each"
        )
    if _versions_apart(table):
        said.append("A dataset has several versions (pictures, splits or card): no average, mean or rank joins them")
    said += _unranked(table)
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


def _unranked(table: Table) -> list[str]:
    """Return why blocks of several rows have no average rank, where they could have one."""
    if table.across not in ("dataset", table.spec.across) or _versions_apart(table):
        return []
    said = []
    for block in [table.combined] if table.combined else table.blocks:
        values = [[bool(table.cells[i][j].values) for i in block.rows] for j in range(len(table.columns))]
        used = [j for j, column in enumerate(values) if any(column)]
        if block.ranked_rows or len(block.rows) < 2 or len(used) < 2:
            continue
        complete = sum(all(values[j][k] for j in used) for k in range(len(block.rows)))
        partial = [column_title(table.columns[j]) for j in used if not all(values[j])]
        over = "rows" if table.combined else OVER.get(table.across, "rows")
        where = f"{heading(table, block)}: " if len(table.blocks) > 1 and not table.combined else ""
        rest = f"; all {len(block.rows)} have, without {', '.join(partial)}" if len(used) - len(partial) > 1 else ""
        said.append(
            f"{where}No average rank: {complete} of {len(block.rows)} {over} have a value of every method{rest}"
        )
    return said


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
