"""Synthetic twins of the datasets: the card's classes in the balance of the real set, 1 to 3 pictures a patient.

Every picture is a function of (card, number): the bytes depend on nothing else, not even on threads.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.random import Generator, Philox

from medpeft_cli.data.card import Card, load_card
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.manifest import Manifest, read_info, read_manifest
from medpeft_cli.data.prepare import write_dataset
from medpeft_cli.demo import drawings, radiographs
from medpeft_cli.errors import DataError
from medpeft_cli.registry import lookup

REVISION = 3  # raise it when pictures change: twins of an earlier revision are made again
MOST_PER_GROUP = 3  # pictures of one patient


@dataclass(frozen=True)
class Twin:
    """How the twin of one dataset is made.

    Attributes:
        draw: picture of a class; see `drawings`.
        counts: class (or classes, joined by |) → number of pictures, in the proportions of the real set.
        report: text of a picture, from the generator that draws it; None = the dataset has no texts.
    """

    draw: Callable[[str, Generator, Generator], np.ndarray]
    counts: Mapping[str, int]
    report: Callable[[str, Generator], str] | None = None


TWINS: dict[str, Twin] = {
    "isic": Twin(
        drawings.dermoscopy,
        # df and vasc lifted from 18 and 23, so that two test pictures do not decide the macro F1
        {"akiec": 52, "bcc": 82, "bkl": 176, "df": 48, "mel": 178, "nv": 1016, "vasc": 48},
    ),
    "breastus": Twin(drawings.ultrasound, {"benign": 437, "malignant": 210, "normal": 133}),
    "fitzpatrick": Twin(drawings.skin_photograph, {"benign": 135, "malignant": 136, "non-neoplastic": 729}),
    "smdg": Twin(drawings.fundus, {"healthy": 613, "glaucoma": 387}),
    "pneumonia": Twin(drawings.radiograph, {"normal": 765, "pneumonia": 235}),
    "mimic_cxr": Twin(
        radiographs.reported_radiograph,
        {
            "No Finding": 380,
            "No Finding|Support Devices": 60,
            "Cardiomegaly": 130,
            "Cardiomegaly|Edema": 90,
            "Cardiomegaly|Edema|Pleural Effusion": 60,
            "Lung Opacity|Pneumonia": 160,
            "Atelectasis|Lung Opacity": 110,
            "Pleural Effusion": 110,
            "Pneumothorax": 50,
            "Pneumothorax|Support Devices": 30,
            "Lung Lesion": 60,
        },
        radiographs.report,
    ),
}


@dataclass(frozen=True)
class Entry:
    """One picture of a twin, before it is drawn: its number in the twin, class and patient."""

    number: int
    label: str
    group: int


def ensure_twin(card_name: str, root: Path) -> Manifest:
    """Make the twin of a dataset as a prepared dataset, unless it is there.

    Args:
        card_name: card with a twin, by name or path.
        root: folder of the prepared dataset, such as data/demo/isic.

    Raises:
        RecipeError: for a dataset without a twin.
        DataError: if the folder holds a dataset that is no twin.
        RunError: if it cannot be written.
    """
    card = load_card(card_name)
    lookup("synthetic twin", TWINS, card.name)
    if info := read_info(root):
        if "twin" not in info:
            raise DataError(f"{root}: holds real data, not a synthetic twin", "choose another data.root for --demo")
        if (info["twin"], info["card_sha256"]) == (REVISION, card.sha256):
            return read_manifest(root, card)
    found = {f"{card.name}_{entry.number:05d}": entry for entry in entries(card.name)}
    samples = [
        Sample(
            name, f"{name}.png", entry.label, f"p{entry.group:04d}", _split(card, entry), {}, describe(card.name, entry)
        )
        for name, entry in found.items()
    ]  # fmt: skip
    return write_dataset(
        root,
        card,
        samples,
        lambda sample: draw(card.name, found[sample.id]),
        origin={"twin": REVISION, "source": "synthetic"},
        on_leak="allow",  # drawn pictures are alike without being copies
        stamp=lambda sample: f"{REVISION} {sample.label} {sample.group}",
    )


def entries(card: str) -> Iterator[Entry]:
    """List the pictures of a twin: a patient has one class and 1 to 3 pictures.

    Args:
        card: name of a dataset with a twin.

    Raises:
        RecipeError: for a dataset without a twin.
    """
    rng = _generator(card, "groups", 0)
    number = group = 0
    for label, count in lookup("synthetic twin", TWINS, card).counts.items():
        end = number + count
        while number < end:
            for _ in range(min(int(rng.integers(1, MOST_PER_GROUP + 1)), end - number)):
                yield Entry(number, label, group)
                number += 1
            group += 1


def draw(card: str, entry: Entry) -> np.ndarray:
    """Draw one picture, a function of the card and the entry alone.

    Args:
        card: name of a dataset with a twin.
        entry: one of `entries(card)`.

    Returns:
        uint8 (64, 64, 3) RGB or (64, 64) grey.
    """
    picture = TWINS[card].draw(
        entry.label, _generator(card, "patient", entry.group), _generator(card, "picture", entry.number)
    )
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def describe(card: str, entry: Entry) -> str:
    """Return the report of a picture, "" where the dataset has none. Arguments as in `draw`."""
    report = TWINS[card].report
    return report(entry.label, _generator(card, "picture", entry.number)) if report else ""


def _split(card: Card, entry: Entry) -> str | None:
    """Return the split where the real set has an official one: of ten patients eight in train."""
    return ("train", "val", "test")[max(0, entry.group % 10 - 7)] if card.official else None


def _generator(card: str, purpose: str, number: int) -> Generator:
    return Generator(Philox(key=[crc32(f"{card} {purpose}".encode()), number]))
