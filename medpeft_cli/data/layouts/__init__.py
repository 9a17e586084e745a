"""Raw layouts: find the pictures of a source folder, and say of each its label, group and split. Originals are only read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medpeft_cli.data.card import Card
from medpeft_cli.data.forms import Folders, Layout, Table
from medpeft_cli.data.layouts.files import find_table, walk
from medpeft_cli.data.layouts.folders import list_class_folders
from medpeft_cli.data.layouts.mimic import list_mimic_cxr
from medpeft_cli.data.layouts.npz import list_npz
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.data.layouts.table import list_table
from medpeft_cli.data.layouts.text_files import list_text_files
from medpeft_cli.errors import DataError

__all__ = ["LAYOUTS", "Listing", "Sample", "list_source", "walk"]

LAYOUTS: dict[str, Callable[[Path, Any, Card], Listing]] = {
    "class_folders": list_class_folders,
    "csv": list_table,
    "text_files": list_text_files,
    "npz": list_npz,
    "mimic_cxr": list_mimic_cxr,
}


def list_source(card: Card, source: Path) -> Listing:
    """List a source by its card's layout, or by the first alternative whose files are there; samples sorted by id.

    Raises:
        DataError: if the source is missing or is not what the card says.
    """
    if not source.exists():
        guide = f"`medpeft prepare {card.argument}` says what to download and from where"
        hint = guide if card.access != "own" else "give the folder of your files as --source"
        raise DataError(f"{source}: no such folder", hint)
    if source.is_file() and card.layout.kind != "npz":
        raise DataError(f"{source}: got a file, wanted a folder", "unpack the archive and give its folder as --source")
    source = source.resolve()
    layout = layout_of(card, source)
    listing = LAYOUTS[layout.kind](source, layout, card)
    return replace(listing, samples=sorted(listing.samples, key=lambda sample: sample.id))


def layout_of(card: Card, source: Path) -> Layout:
    """Return the layout of the card whose files are there; its own where none is."""
    fitting = (layout for layout in card.layouts if _is_there(layout, source))
    return card.layout if not card.alternatives else next(fitting, card.layout)


def _is_there(layout: Layout, source: Path) -> bool:
    if isinstance(layout, Table):
        return all(find_table(source, file) for file in (layout.files.values() or [str(layout.file)]))
    folders = [layout.folder, *layout.splits.values()] if isinstance(layout, Folders) else ["files"]
    return any((source / folder).is_dir() for folder in folders)
