"""Before there is a source: what a dataset is, its licence, where to ask for it, which files are needed. Nothing is fetched."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.forms import ClassFolders, MimicCxr, Npz, Table, TextFiles
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import readable

ACCESS = {
    "open": "free to download",
    "credentialed": "account and accepted terms needed; medpeft handles no passwords",
    "own": "your own data",
}


def guide(card: Card, name: str) -> str:
    """Return what to know and do before the dataset can be prepared, as lines for the console.

    Args:
        card: the dataset.
        name: what the user called it, a name or a path.
    """
    facts = [
        ("licence", card.licence),
        ("access", f"{ACCESS[card.access]}: {card.url}" if card.url else ACCESS[card.access]),
        ("size", card.size),
        ("cite", card.citation),
    ]
    lines = [f"{card.title}: {card.modality}"]
    lines += [f"  {what:9}{text}" for what, text in facts if text]
    if card.steps:
        lines += ["", "How to get it", *(f"  {number}. {step}" for number, step in enumerate(card.steps, 1))]
    files = expected_files(card)
    width = max(map(len, files))
    lines += ["", "What DIR must hold", *(f"  DIR/{file:{width}}  {what}" for file, what in files.items())]
    lines += ["", "Then", f"  medpeft prepare {name} --source DIR"]
    return "\n".join(lines)


def facts(card: Card) -> dict[str, Any]:
    """Return the same for --json."""
    names = ("name", "title", "modality", "licence", "access", "url", "size", "citation")
    return {name: getattr(card, name) for name in names} | {"steps": list(card.steps), "files": expected_files(card)}


def expected_files(card: Card) -> dict[str, str]:
    """Return file or folder below the source → what it is: as the card says, otherwise by its layout."""
    if card.files:
        return card.files
    layout = card.layout
    if isinstance(layout, Npz):
        return {layout.file: "arrays of pictures and labels"}
    if isinstance(layout, MimicCxr):
        return {"": "the files of card mimic_cxr"}
    if isinstance(layout, TextFiles):
        tops = layout.splits.values() or [""]
        return {"/".join(filter(None, (layout.folder, top))) + "/": "x.png and x.txt, and so on" for top in tops}
    if isinstance(layout, ClassFolders):
        tops = [f"{folder}/" for folder in layout.splits.values()] or [""]
        front = "" if layout.folder == "." else f"{layout.folder}/"
        folders = {label: folder for folder, label in layout.labels.items()}
        return {f"{front}{top}{folders.get(name, name)}/": "its pictures" for top in tops for name in card.classes}
    tables = dict.fromkeys(layout.files.values() or [str(layout.file)], "the table")
    if layout.group_file:
        tables[layout.group_file] = "the groups"
    return tables | {f"{folder}/": "the pictures" for folder in layout.folders or (".",)}


def file_list(card: Card, source: Path | None, views: str | None, splits: str | None, fraction: float) -> list[str]:
    """Return `needed_files` of lists as they are typed, such as "PA,AP".

    Raises:
        DataError: if a table is missing or damaged, or no picture is as asked for.
        RecipeError: if a split is unknown or something cannot be chosen.
    """
    if source is None:
        raise RecipeError(
            "--list-files: no source given", f"`medpeft prepare {card.argument}` says which tables --source must hold"
        )
    wanted = [part.strip() for part in (splits or "").split(",") if part.strip()]
    for split in wanted:
        if split not in SPLITS:
            raise RecipeError(f"--splits: got {split!r}, wanted some of {', '.join(SPLITS)}")
    if not 0 < fraction <= 1:
        raise RecipeError(f"--fraction: got {fraction:g}, wanted a number above 0, 1 at most")
    shown = [view.strip() for view in (views or "").split(",") if view.strip()]
    with readable(source):
        files = list(needed_files(card, source, shown, wanted, fraction))
    if not files:
        chosen = {"views": shown, "splits": wanted}
        choice = ", ".join(f"{what} {' and '.join(names)}" for what, names in chosen.items() if names)
        raise DataError(f"--list-files: no picture of {card.title} is needed" + (f" with {choice}" if choice else ""))
    return files


def needed_files(
    card: Card,
    source: Path,
    views: Sequence[str] = (),
    splits: Sequence[str] = (),
    fraction: float = 1.0,
) -> Iterator[str]:
    """Yield the picture files that a dataset needs, by its tables alone; the pictures need not be there.

    With addresses in the table: address, tab, file. A fraction is that of the training pictures which `data.fraction` of a
    recipe takes, up to pictures that turn out unreadable or double.

    Args:
        card: the dataset.
        source: folder that holds at least the tables.
        views: values of the view to take; none = the card's.
        splits: train, val, test; none = all.
        fraction: of the training split, 0–1.

    Raises:
        DataError: if a table is missing or damaged.
        RecipeError: if the dataset comes as a whole, or says nothing of what was asked for.
    """
    from medpeft_cli.data.layouts import layout_of

    if not source.is_dir():
        raise DataError(
            f"{source}: no such folder", f"`medpeft prepare {card.argument}` says which tables to download first"
        )
    source = source.resolve()
    layout = layout_of(card, source)
    chosen = [name for name, given in (("--splits", splits), ("--fraction", fraction < 1)) if given]
    if chosen and not card.official:
        raise RecipeError(
            f"{chosen[0]}: {card.title} has no official split; prepare divides it, and needs all pictures"
        )
    if views and not isinstance(layout, MimicCxr):
        raise RecipeError(f"--views: {card.title} has no views to choose from")
    if isinstance(layout, MimicCxr):
        yield from _of_mimic(
            source, layout.model_copy(update={"views": tuple(views) or layout.views}), card, splits, fraction
        )
    elif isinstance(layout, Table):
        if fraction < 1:
            raise RecipeError(f"--fraction: {card.title} comes in archives, which hold all pictures")
        yield from _of_table(source, layout, card, splits)
    else:
        raise RecipeError(
            f"--list-files: {card.title} has no table; all its pictures are needed",
            f"`medpeft prepare {card.argument}` says where they lie",
        )


def _of_mimic(source: Path, layout: MimicCxr, card: Card, splits: Sequence[str], fraction: float) -> Iterator[str]:
    from medpeft_cli.data.card import names_of
    from medpeft_cli.data.layouts.mimic import mimic_pairs
    from medpeft_cli.data.splits import nested_ranks, strata_of

    samples = sorted(mimic_pairs(source, layout, card).samples, key=lambda sample: sample.id)
    train = [sample for sample in samples if sample.split == "train"]
    strata = strata_of([names_of(sample.label, card.task) for sample in train], [sample.group for sample in train])
    size = Counter(strata)
    ranks = nested_ranks([sample.id for sample in train], strata, card.split.seed)
    kept = {
        sample.id
        for sample, stratum, rank in zip(train, strata, ranks, strict=True)
        if rank <= max(1, round(fraction * size[stratum]))
    }
    for sample in samples:
        if sample.split in (splits or SPLITS) and (sample.split != "train" or sample.id in kept):
            yield sample.file


def _of_table(source: Path, layout: Table, card: Card, splits: Sequence[str]) -> Iterator[str]:
    from medpeft_cli.data.layouts.files import inside
    from medpeft_cli.data.layouts.table import labelled_rows, split_of

    folder = f"{layout.folders[0]}/" if layout.folders else ""
    extension = layout.extensions[0] if layout.extensions else ""
    seen = set()
    for item in labelled_rows(source, layout, card):
        name = item.row[layout.image]
        wanted = not splits or split_of(item, layout) in splits
        if not name or item.classes is None or name in seen or not wanted:
            continue
        seen.add(name)
        file = folder + inside(name, item.place) + ("" if name.endswith(extension) else extension)
        if not layout.address:
            yield file
        elif re.fullmatch(r"https?://\S+", item.row[layout.address]):  # a row without an address, or "nan"
            yield f"{item.row[layout.address]}\t{file}"
