"""Pictures, each with its text in a file of the same name beside it: x.png and x.txt."""

from functools import partial
from pathlib import Path

from medpeft_cli.data.card import Card
from medpeft_cli.data.decode import is_picture
from medpeft_cli.data.forms import TextFiles
from medpeft_cli.data.layouts.files import group_of, read_file, split_folders, walk
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.data.tables import read_text
from medpeft_cli.data.text import Reader
from medpeft_cli.errors import DataError


def list_text_files(source: Path, layout: TextFiles, card: Card) -> Listing:
    """List the pictures that have a text file of their name beside them.

    Raises:
        DataError: if a split folder is missing, a text is no text, no picture has one, or a link leads out of the source.
    """
    base, tops = split_folders(source, layout)
    samples, left_out = [], []
    reader = Reader(layout.sections, layout.marks)
    for folder, split in tops.items():
        paths = list(walk(folder, source))  # all of them: a link out of the source is found before anything is read
        texts = {path for path in paths if path.suffix == ".txt"}
        used = set()
        for path in paths:
            file = path.relative_to(source).as_posix()
            beside = path.with_suffix(".txt")
            if path in texts:
                continue
            if not is_picture(path):
                left_out.append((file, "not a picture file"))
            elif beside not in texts:
                left_out.append((file, "no text file beside it"))
            else:
                used.add(beside)
                text, _ = reader.read(read_text(beside))
                if not text:
                    left_out.append((file, f"no {' or '.join(layout.sections) or 'words'} in its text"))
                    continue
                name = path.relative_to(base).as_posix()
                group = group_of(path, layout, name)
                samples.append(Sample(name, file, "", group, split if card.official else None, text=text))
        left_out += [(path.relative_to(source).as_posix(), "no picture of its name") for path in sorted(texts - used)]
    if not samples and not left_out:
        raise DataError(f"{base}: no pictures", "is --source the folder that the card means?")
    return Listing(samples, left_out, reader.notes(), partial(read_file, source), reader.facts())
