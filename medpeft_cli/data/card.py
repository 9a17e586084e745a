"""A dataset card: what a dataset is, where its files and labels are, how it is split. Imports yaml and pydantic only."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.problems import check, one_of
from medpeft_cli.recipe.schema import Strict
from medpeft_cli.recipe.source import Place, Problem, read_document
from medpeft_cli.registry import unknown_hint

SPLITS = ("train", "val", "test")
CARDS = Path(__file__).parent / "cards"
# columns of manifest.csv; attributes may not take these names
COLUMNS = ("id", "file", "label", "split", "group", "height", "width", "channels", "offset", "pixels")

SplitName = Literal["train", "val", "test"]


class Files(Strict):
    """What layouts of picture files share."""

    labels: dict[str, str] = Field({}, description="folder name or label value → class, where they differ")
    group_pattern: str | None = Field(None, description="regex with one group, searched in the file name: the patient")

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and _compiled(pattern).groups != 1:
            raise ValueError("group_pattern must hold exactly one (…) group")
        return pattern


class ClassFolders(Files):
    """One folder a class, with ready split folders above them or without."""

    kind: Literal["class_folders"]
    folder: str = Field(".", description="folder of the class folders; where it is absent, the source itself")
    splits: dict[SplitName, str] = Field({}, description="split → its folder; a missing val or test is split off train")
    mask_pattern: str | None = Field(None, description="regex, searched in the file name: masks, left out")

    @field_validator("mask_pattern")
    @classmethod
    def _regex(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _compiled(pattern)
        return pattern


class Table(Files):
    """A CSV or TSV file that names pictures and labels."""

    kind: Literal["csv"]
    file: str = Field(description="the table, relative to the source")
    image: str = Field(description="column: picture file, with or without folder and extension")
    label: str = Field(description="column: label")
    group: str | None = Field(None, description="column: patient, lesion or study; never in two splits")
    split: str | None = Field(None, description="column: official split")
    split_names: dict[str, SplitName] = Field(
        {"train": "train", "val": "val", "test": "test"}, description="value of the split column → split"
    )
    folders: tuple[str, ...] = Field(
        (), description="picture folders, searched in order; without any, the source itself"
    )
    extensions: tuple[str, ...] = Field((), description="tried in order where the column has none, such as .jpg")
    ignore_labels: tuple[str, ...] = Field((), description="rows with these labels are left out, and counted")
    attributes: dict[str, str] = Field({}, description="name in the manifest → column to keep there")

    @field_validator("attributes")
    @classmethod
    def _free_names(cls, attributes: dict[str, str]) -> dict[str, str]:
        if taken := sorted(set(attributes) & set(COLUMNS)):
            raise ValueError(f"{', '.join(taken)}: the manifest has columns of that name; choose another")
        return attributes

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        if any(not extension.startswith(".") for extension in extensions):
            raise ValueError("extensions begin with a dot, such as .jpg")
        return extensions


class Npz(Strict):
    """One .npz of the MedMNIST kind: <split>_images and <split>_labels; label k is the k-th class."""

    kind: Literal["npz"]
    file: str = Field(description="the .npz file, relative to the source")


Layout = Annotated[ClassFolders | Table | Npz, Field(discriminator="kind")]
KINDS: dict[str, type[Strict]] = {"class_folders": ClassFolders, "csv": Table, "npz": Npz}


class SplitRule(Strict):
    """How the pictures are divided into train, val and test."""

    rule: Literal["stratified", "official"] | None = Field(
        None, description="null = official where the layout has one, otherwise stratified by class"
    )
    fractions: tuple[float, float, float] = Field((0.7, 0.15, 0.15), description="of train, val, test; their sum is 1")
    seed: int = Field(0, ge=0, description="of the stratified split")
    group: str = Field("image", description="what never straddles two splits: image, patient, lesion")

    @field_validator("fractions")
    @classmethod
    def _whole(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("fractions must be three positive numbers with sum 1")
        return fractions


class Card(Strict):
    """A dataset: facts for the reader, and all that `prepare` needs to know."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="short name; the prepared dataset is data/<name>")
    title: str = Field(description="name in tables")
    citation: str = Field("", description="whom to cite")
    licence: str = Field("", description="terms of use, as the publisher states them")
    access: Literal["open", "credentialed", "own"] = Field("own", description="how to get it")
    url: str = Field("", description="where to get it")
    modality: str = Field(description="such as dermatoscopy, chest X-ray")
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=2, description="in the order of the head"
    )
    layout: Layout
    split: SplitRule = SplitRule()
    expected: dict[str, int] = Field(
        {}, description="pictures per class, or `images` for all; a difference is a warning"
    )
    notes: str = Field("", description="what a user should know")

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: the same class twice")
        known = set(self.classes)
        if wrong := sorted(set(getattr(self.layout, "labels", {}).values()) - known):
            raise ValueError(f"layout.labels leads to {wrong[0]!r}, which is not among the classes")
        if wrong := sorted(set(self.expected) - known - {"images"}):
            raise ValueError(f"expected: {wrong[0]!r} is not a class")
        if self.split.rule == "official" and not self.has_official_split:
            raise ValueError("split.rule is official, but the layout names no split")
        return self

    @property
    def has_official_split(self) -> bool:
        """Whether the layout says which picture is in which split."""
        layout = self.layout
        return layout.kind == "npz" or bool(layout.splits if layout.kind == "class_folders" else layout.split)

    @property
    def official(self) -> bool:
        """Whether the official split is used."""
        return self.has_official_split and self.split.rule != "stratified"

    @property
    def sha256(self) -> str:
        """Hash of what decides the prepared data: name, classes, layout, split. Titles and notes may change freely."""
        facts = self.model_dump(mode="json", include={"name", "classes", "layout", "split"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def card_names() -> list[str]:
    """Return the names of the cards that come with medpeft, sorted."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_card(name_or_path: str | Path) -> Card:
    """Load a card by name, or from the path of your own YAML file.

    Raises:
        RecipeError: for an unknown name (it names the nearest), a missing file, or a card that says something wrong.
    """
    text = str(name_or_path)
    if text in (names := card_names()):
        path = CARDS / f"{text}.yaml"
    elif text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text)
    else:
        raise RecipeError(
            f"unknown dataset card {text!r}", unknown_hint(text, names) + "; or the path of your own card.yaml"
        )
    return _read_card(path)


def _read_card(path: Path) -> Card:
    document = read_document(path)
    card = check(Card, document.values, document)
    layout = document.values.get("layout")
    if isinstance(layout, dict):  # the layout again, by its own kind, so that each problem finds its line
        document.problems = [problem for problem in document.problems if not f"{problem.field}.".startswith("layout.")]
        kind = layout.get("kind")
        if kind in KINDS:
            check(KINDS[kind], layout, document, ("layout",))
        else:
            place = document.places.get(("layout", "kind")) or document.places.get(("layout",)) or Place(str(path))
            document.problems.append(Problem(place, "layout.kind", one_of(str(kind), list(KINDS))))
    if card is None:
        raise RecipeError("\n".join(map(str, document.problems)), "fields: docs/datasets.md")
    return card


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
