"""MIMIC-CXR-JPG 2.x as PhysioNet gives it: CSV files, files/p10/p10000032/s50414267/<dicom_id>.jpg, and a zip of reports.

Nothing is unpacked: texts are read from the zip one by one, by names that are made here, never by those it holds.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medpeft_cli.data.card import Card
from medpeft_cli.data.forms import JOINER, MimicCxr
from medpeft_cli.data.layouts.files import read_file, stay_inside, walk
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.data.layouts.table import PRESENT, UNCERTAIN
from medpeft_cli.data.splits import shuffled
from medpeft_cli.data.tables import iterate_table
from medpeft_cli.data.text import Reader
from medpeft_cli.errors import DataError
from medpeft_cli.words import counted

SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}
REPORTS = "mimic-cxr-reports.zip"
LARGEST_REPORT = 1 << 20  # bytes; the longest is far below


@dataclass(frozen=True)
class Pairs:
    """Pictures with their texts as the tables and reports say, whether the pictures are there or not."""

    samples: list[Sample]
    left_out: list[tuple[str, str]]
    notes: list[str]
    reader: Reader


def list_mimic_cxr(source: Path, layout: MimicCxr, card: Card) -> Listing:
    """List the pictures of the wanted views that are there, each with the text of its study's report.

    Raises:
        DataError: if a table or the reports are missing or damaged, or none of the pictures is there.
    """
    pairs = mimic_pairs(source, layout, card)
    start = len(str(source)) + 1
    folder = source / "files"
    there = {str(path)[start:] for path in walk(folder, source)} if folder.is_dir() else set()
    samples = [sample for sample in pairs.samples if sample.file in there]
    if not samples:
        raise DataError(
            f"{source}: none of the {counted(len(pairs.samples), 'picture')} is there, wanted {pairs.samples[0].file} and others",
            f"`medpeft prepare {card.argument} --list-files --source {source}` prints them",
        )
    notes = list(pairs.notes)
    if absent := len(pairs.samples) - len(samples):
        missing = counted(absent, "picture")
        notes.append(f"{missing} of the tables not below {folder}; --list-files prints all that are needed")
    return Listing(samples, pairs.left_out, notes, partial(read_file, source), pairs.reader.facts())


def mimic_pairs(source: Path, layout: MimicCxr, card: Card) -> Pairs:
    """Return the pairs of picture and text that the card takes; no picture is looked for.

    A picture stays if its view is wanted and its report has a wanted section. Of the training pictures `train_images` are
    chosen by a hash of their id and the card's seed.

    Raises:
        DataError: if a table or the reports are missing or damaged.
    """
    splits = {
        row["dicom_id"]: _known_split(row["split"], row.line)
        for row in iterate_table(_table(source, "split"), ["dicom_id", "split"])
    }
    labels = _labels(source, layout, card)
    views: Counter[str] = Counter()
    left_out: list[tuple[str, str]] = []
    reader = Reader(layout.sections, layout.marks)
    samples = []
    texts: dict[str, tuple[str, str]] = {}  # study → text, section
    with _reports(source) as report:
        table, columns = _table(source, "metadata"), ["dicom_id", "subject_id", "study_id", "ViewPosition"]
        for row in iterate_table(table, columns):
            name, subject, study, view = (row[column] for column in columns)
            if view not in layout.views:
                views[view or "unknown"] += 1
                continue
            if not (subject.isalnum() and study.isalnum() and name.replace("-", "").isalnum()):  # they become paths
                raise DataError(f"{table.name}:{row.line}: got {subject!r}, {study!r}, {name!r}, wanted ids")
            folder = f"files/p{subject[:2]}/p{subject}"
            file = f"{folder}/s{study}/{name}.jpg"
            if name not in splits:
                left_out.append((file, "no split in the table of splits"))
                continue
            if study not in texts:
                whole = report(f"{folder}/s{study}.txt")
                texts[study] = ("", "no report") if whole is None else reader.read(whole)
            text, section = texts[study]
            if not text and card.task == "text":
                left_out.append((file, section or f"no {' or '.join(layout.sections) or 'text'} in its report"))
                continue
            present, uncertain = labels.get(study, ("", ""))
            attributes = {"view": view, "study": study, "section": section if text else "", "uncertain": uncertain}
            samples.append(Sample(name, file, present, subject, splits[name], attributes, text))
    if not samples:
        found = f"the table has the views {', '.join(sorted(views))}" if views else ""
        raise DataError(f"{source}: no picture of the views {', '.join(layout.views)} has a text", found)
    others = counted(views.total(), "picture")
    notes = [f"{others} of other views: {', '.join(sorted(views))}"] if views else []
    notes += reader.notes()
    return Pairs(_limited(samples, layout, card, notes), left_out, notes, reader)


def _limited(samples: list[Sample], layout: MimicCxr, card: Card, notes: list[str]) -> list[Sample]:
    train = [sample.id for sample in samples if sample.split == "train"]
    if layout.train_images is None or len(train) <= layout.train_images:
        return samples
    chosen = set(shuffled(train, card.split.seed)[: layout.train_images])
    notes.append(
        f"{len(train) - len(chosen):,} of {counted(len(train), 'training picture')} not among the {len(chosen):,} chosen"
    )
    return [sample for sample in samples if sample.split != "train" or sample.id in chosen]


def _known_split(value: str, line: int) -> str:
    if value not in SPLIT_NAMES:
        raise DataError(f"split table:{line}: got {value!r}, wanted one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[value]


def _labels(source: Path, layout: MimicCxr, card: Card) -> dict[str, tuple[str, str]]:
    """Return study → (its classes, its uncertain ones), each joined in the card's order."""
    if layout.labeller is None or not card.classes:
        return {}
    labels = {}
    for row in iterate_table(_table(source, layout.labeller), ["study_id", *card.classes]):
        present, uncertain = (
            JOINER.join(name for name in card.classes if row[name] in values) for values in (PRESENT, UNCERTAIN)
        )
        labels[row["study_id"]] = (present, uncertain)
    return labels


def _table(source: Path, name: str) -> Path:
    """Return mimic-cxr-2.0.0-<name>.csv.gz, or its unpacked form."""
    for suffix in (".csv.gz", ".csv"):
        if hits := sorted(source.glob(f"mimic-cxr-2.*-{name}{suffix}")):
            return stay_inside(hits[-1], source)
    raise DataError(
        f"{source}: no mimic-cxr-2.0.0-{name}.csv.gz", "`medpeft prepare mimic_cxr` says which files are needed"
    )


@contextmanager
def _reports(source: Path) -> Iterator:
    """Yield a function that returns the report of a study by its path, None where there is none."""
    path = source / REPORTS
    if not path.is_file():

        def from_folder(name: str) -> str | None:
            file = source / name
            there = file.is_file()
            return stay_inside(file, source).read_text(encoding="utf-8", errors="replace") if there else None

        if next((source / "files").glob("p1*/p*/s*.txt"), None) is None:
            raise DataError(
                f"{path}: no such file",
                "the reports are a download of their own, mimic-cxr 2.1.0; put the zip beside the CSV files as it is",
            )
        yield from_folder
        return
    try:
        with zipfile.ZipFile(stay_inside(path, source)) as archive:

            def from_zip(name: str) -> str | None:
                try:
                    entry = archive.getinfo(name)
                except KeyError:
                    return None
                if entry.file_size > LARGEST_REPORT:
                    raise DataError(f"{path}: {name}: {entry.file_size:,} bytes are no report")
                return archive.read(entry).decode("utf-8", errors="replace")

            yield from_zip
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: damaged archive: {error}", "download it again") from None
