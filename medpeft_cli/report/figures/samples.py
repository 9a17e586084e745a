"""Generated pictures side by side, as in the paper's Figure 2: prompts downwards, methods across."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from medpeft_cli.errors import MedpeftError
from medpeft_cli.report import text
from medpeft_cli.report.figures.style import WIDTH, new_figure, styles
from medpeft_cli.report.records import Run
from medpeft_cli.report.run_files import generated, images_folder, open_picture, picture_file, untuned_folder
from medpeft_cli.report.table import Cell, Table

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPTS = 3  # of each row of the table
PIXELS = 256  # of a picture's side in the figure


def shown_run(cell: Cell) -> Run | None:
    """Return the first run of a cell whose pictures are there."""
    return next((run for run in (*cell.runs, *cell.others) if generated(run)), None)


def samples(table: Table, row: int) -> Figure:
    """Draw the same prompts by each method.

    First the test split's real pictures, where the prepared dataset is at its place, and what the untuned pipeline draws,
    where `medpeft generate RUN --base` has made it for one of the runs.
    """
    looks = styles(table)
    runs = {j: run for j, cell in enumerate(table.cells[row]) if (run := shown_run(cell))}
    prompts = common_prompts(list(runs.values()))
    real = real_pictures(next(iter(runs.values())), list(prompts))
    untuned = next((folder for run in runs.values() if (folder := untuned_folder(run, list(prompts)))), None)
    names = ["real picture"] * bool(real) + ["untuned"] * bool(untuned) + [looks[j].name for j in runs]
    columns = len(names)
    size = min((WIDTH - 1.1) / columns, 1.6)
    figure = new_figure(size * 1.05 * len(prompts) + 0.5, demo=table.demo)
    grid = figure.subplots(len(prompts), columns, squeeze=False)
    for line, (index, prompt) in zip(grid, prompts.items(), strict=True):
        pictures = [real[index]] if real else []
        pictures += [open_picture(picture_file(untuned, index))] if untuned else []
        pictures += [open_picture(picture_file(images_folder(run), index)) for run in runs.values()]
        for axes, picture in zip(line, pictures, strict=True):
            axes.set(xticks=(), yticks=())
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if picture is None:
                axes.text(0.5, 0.5, "no picture", ha="center", va="center", transform=axes.transAxes, fontsize=6.5)
            else:
                picture.thumbnail((PIXELS, PIXELS))
                axes.imshow(picture)
        line[0].set_ylabel(wrapped(prompt), rotation=0, ha="right", va="center", fontsize=6.5)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(heading(name, size), fontsize=7)
    return figure


def common_prompts(runs: list[Run]) -> dict[int, str]:
    """Return a few prompts, by index, of which every run has a picture: different texts as far as there are, evenly spaced."""
    found = [generated(run) for run in runs]
    common = {i: prompt for i, prompt in (found[0] if found else {}).items() if all(i in each for each in found)}
    seen: dict[str, int] = {}
    for i, prompt in common.items():
        seen.setdefault(prompt, i)
    chosen = list(seen.values()) if len(seen) >= PROMPTS else list(common)
    number = min(PROMPTS, len(chosen))
    return {i: common[i] for i in (chosen[place * len(chosen) // number] for place in range(number))}


def real_pictures(run: Run, indices: list[int]) -> "dict[int, Image | None]":
    """Return the dataset's pictures behind some prompts; nothing where another dataset, or none, is at the recipe's place."""
    from PIL import Image

    from medpeft_cli.data.card import load_card
    from medpeft_cli.data.images import ImageStore
    from medpeft_cli.data.manifest import read_manifest

    root = Path(str(run.setting("data", "root")))
    if not (root / "dataset.json").is_file():
        return {}
    try:
        manifest = read_manifest(root, load_card(str(run.setting("data", "card"))))
        if manifest.sha256 != run.data_version:
            return {}
        store = ImageStore(manifest)
        return {i: Image.fromarray(store[i]) for i in indices}
    except (MedpeftError, OSError, IndexError, ValueError):
        return {}


def wrapped(prompt: str, width: int = 20, lines: int = 6) -> str:
    """Return a prompt in short lines."""
    import textwrap

    return "\n".join(textwrap.wrap(text.clean(prompt, 160), width, max_lines=lines, placeholder=" …"))


def heading(name: str, inches: float) -> str:
    """Return a method's name in lines for a column of that width, cut at blanks and behind plus signs."""
    import textwrap

    words = text.clean(name, 60).replace("+", "+ ")
    return "\n".join(textwrap.wrap(words, max(10, round(15 * inches)), break_long_words=False))
