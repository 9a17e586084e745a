"""One folder a class, with ready split folders or without."""

import re
from functools import partial
from pathlib import Path

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.decode import is_picture
from medpeft_cli.data.forms import ClassFolders
from medpeft_cli.data.layouts.files import group_of, read_file, split_folders, walk
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.errors import DataError


def list_class_folders(source: Path, layout: ClassFolders, card: Card) -> Listing:
    """List a folder per class, below split folders where the layout names them.

    Raises:
        DataError: if a split or class folder is missing or holds no picture, or a link leads out of the source.
    """
    base, tops = split_folders(source, layout)
    samples, left_out = [], []
    for top, split in tops.items():
        for path in walk(top, source):
            inside = path.relative_to(top).parts
            label = layout.labels.get(inside[0], inside[0]) if len(inside) > 1 else None
            file = path.relative_to(source).as_posix()
            if not is_picture(path):
                left_out.append((file, "not a picture file"))
            elif label not in card.classes:
                left_out.append((file, "not in the folder of a class"))
            elif layout.mask_pattern and re.search(layout.mask_pattern, path.name):
                left_out.append((file, "mask"))
            else:
                name = path.relative_to(base).as_posix()
                samples.append(
                    Sample(name, file, label, group_of(path, layout, name), split if card.official else None)
                )
    found = {sample.label for sample in samples}
    if missing := [name for name in card.classes if name not in found]:
        seen = sorted({path.name for top in tops for path in top.iterdir() if path.is_dir()})
        raise DataError(
            f"{base}: class {missing[0]!r} has no picture, wanted a folder of that name with at least {len(SPLITS)}",
            f"folders found: {', '.join(seen[:12]) or 'none'}; is --source the folder that the card means?",
        )
    return Listing(samples, left_out, [], partial(read_file, source))
