"""A dataset card: what a dataset is, where its files and labels are, how it is split. Imports yaml and pydantic only."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from medpeft_cli.data.forms import COLUMNS, JOINER, KINDS, SPLITS, Layout, Table
from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.load import merge
from medpeft_cli.recipe.problems import check, one_of
from medpeft_cli.recipe.schema import Strict
from medpeft_cli.recipe.source import Document, Place, Problem, read_document
from medpeft_cli.registry import unknown_hint

__all__ = ["COLUMNS", "SPLITS", "Card", "SplitRule", "card_names", "load_card", "names_of"]
CARDS = Path(__file__).parent / "cards"


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
    size: str = Field("", description="of the download, in words")
    files: dict[str, str] = Field({}, description="file or folder that --source must hold → what it is")
    steps: tuple[str, ...] = Field((), description="how to get it, in order; commands as they are typed")
    task: Literal["classify", "multilabel", "text"] = Field(
        "classify", description="one class a picture; any number of classes; or a text a picture"
    )
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="in the order of the head; two at least to classify, optional for texts"
    )
    layout: Layout
    alternatives: tuple[Layout, ...] = Field(
        (), description="other forms of the same download, taken in order where the files of layout are not there"
    )
    split: SplitRule = SplitRule()
    expected: dict[str, int] = Field(
        {}, description="pictures per class, or `images` for all; a difference is a warning"
    )
    notes: str = Field("", description="what a user should know")

    @field_validator("classes")
    @classmethod
    def _enough(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        task = info.data.get("task", "classify")
        if len(set(classes)) < len(classes):
            raise ValueError("the same class twice")
        if len(classes) < (needed := {"classify": 2, "multilabel": 1, "text": 0}[task]):
            raise ValueError(f"{task}: wanted {needed} at least")
        if task != "classify" and (joined := [name for name in classes if JOINER in name]):
            raise ValueError(f"{joined[0]!r} holds {JOINER}, which joins the classes of one picture")
        return classes

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        known = set(self.classes)
        for layout in self.layouts:
            if wrong := sorted(set(getattr(layout, "labels", {}).values()) - known):
                raise ValueError(f"layout.labels leads to {wrong[0]!r}, which is not among the classes")
            if isinstance(layout, Table):
                self._fits(layout)
            elif layout.kind == "text_files":
                if self.task != "text" or self.classes:
                    raise ValueError("layout.kind text_files gives texts; wanted task: text and no classes")
            elif layout.kind != "mimic_cxr" and self.task != "classify":
                raise ValueError(f"task is {self.task}, but layout.kind {layout.kind} gives each picture one class")
            elif layout.kind == "mimic_cxr" and self.task == "classify":
                raise ValueError("task is classify, but a report has any number of classes; wanted text or multilabel")
            if layout.has_official_split != self.has_official_split:
                raise ValueError("alternatives: either all of them name the splits, or none")
        if wrong := sorted(set(self.expected) - known - {"images", *SPLITS}):
            raise ValueError(f"expected: {wrong[0]!r} is not a class")
        if self.split.rule == "official" and not self.has_official_split:
            raise ValueError("split.rule is official, but the layout names no split")
        return self

    def _fits(self, layout: Table) -> None:
        labelled = bool(layout.label or layout.label_columns)
        if self.classes and not labelled:
            raise ValueError("layout.label: got nothing, wanted text: column: label, or label_columns")
        if labelled and not self.classes:
            raise ValueError("the layout has labels, but the card no classes")
        if self.task == "text" and not layout.text:
            raise ValueError("task is text, but the layout names no text column")

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layout and its alternatives."""
        return (self.layout, *self.alternatives)

    @property
    def argument(self) -> str:
        """What stands for the card on a command line, in hints."""
        return self.name if self.name in card_names() else "YOUR_CARD.yaml"

    @property
    def has_official_split(self) -> bool:
        """Whether the layout says which picture is in which split."""
        return self.layout.has_official_split

    @property
    def official(self) -> bool:
        """Whether the official split is used."""
        return self.has_official_split and self.split.rule != "stratified"

    @property
    def sha256(self) -> str:
        """Hash of what decides the prepared data: name, task, classes, layout, split. Titles and notes may change freely.

        Defaults are left out, so that a field which is new to medpeft changes no hash.
        """
        facts = self.model_dump(
            mode="json",
            include={"name", "task", "classes", "layout", "alternatives", "split"},
            exclude_defaults=True,
        )
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def names_of(label: str, task: str) -> list[str]:
    """Return the classes that the label of a picture names: one of a classify task, otherwise any number, maybe none."""
    return [label] if task == "classify" else label.split(JOINER) if label else []


def card_names() -> list[str]:
    """Return the names of the cards that come with medpeft, sorted."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_card(name_or_path: str | Path) -> Card:
    """Load a card by name, or from the path of your own YAML file.

    Raises:
        RecipeError: for an unknown name (it names the nearest), a missing file, or a card that says something wrong.
    """
    path = _path_of(str(name_or_path))
    document = _read_chain(path, ())
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


def _path_of(name: str, beside: Path = Path()) -> Path:
    """Return the file of a card: one of ours by name, or a path."""
    if name in (names := card_names()):
        return CARDS / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return beside / name
    raise RecipeError(
        f"unknown dataset card {name!r}", unknown_hint(name, names) + "; or the path of your own card.yaml"
    )


def _read_chain(path: Path, above: tuple[Path, ...]) -> Document:
    """Return a card merged over the one that its `base:` names; the name is its own."""
    document = read_document(path)
    if "base" not in document.values:
        return document
    base, place = document.values.pop("base"), document.places[("base",)]
    below = _path_of(str(base), path.parent)
    if below.resolve() in (chain := [link.resolve() for link in (*above, path)]) or len(chain) > 8:
        raise RecipeError(f"{place}: base: goes round in a circle", "one of them must do without `base:`")
    merged = _read_chain(below, (*above, path))
    merged.values.pop("name", None)
    if "classes" in document.values:  # the numbers are those of the base's classes
        merged.values.pop("expected", None)
    return merge(merged, document)
