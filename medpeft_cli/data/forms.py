"""What a card may say of the files of a dataset: one model for each kind of layout. Imports pydantic only."""

import re
from pathlib import PureWindowsPath
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from medpeft_cli.recipe.schema import Strict

SPLITS = ("train", "val", "test")
# columns of manifest.csv; attributes may not take these names
COLUMNS = ("id", "file", "label", "split", "group", "rank", "height", "width", "channels", "offset", "pixels")

JOINER = "|"  # between the classes of one picture

SplitName = Literal["train", "val", "test"]
Section = Literal["impression", "findings"]


def _below(path: str) -> str:
    windows = PureWindowsPath(path)
    if windows.drive or windows.root or ".." in windows.parts:
        raise ValueError("paths of a card lie below --source: no / in front, no .. in between")
    return path


Inside = Annotated[str, AfterValidator(_below)]


class Texts(Strict):
    """What layouts with reports or captions share."""

    sections: tuple[Section, ...] = Field(
        (), description="sections of a report, the first that is there is the text; without any, the whole text"
    )
    marks: Literal["remove", "keep"] = Field(
        "remove", description="de-identification marks such as ___: taken out of the text, or kept"
    )


class Labels(Strict):
    """What layouts with classes share."""

    labels: dict[str, str] = Field(
        {}, description="folder name, label value or label column → class, where they differ"
    )


class Files(Strict):
    """What layouts of picture files share."""

    group_pattern: str | None = Field(None, description="regex with one group, searched in the file name: the patient")
    group_tag: str | None = Field(None, description="DICOM keyword of the patient, such as PatientID")

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and _compiled(pattern).groups != 1:
            raise ValueError("group_pattern must hold exactly one (…) group")
        return pattern


class Folders(Files):
    """What layouts that go by folders share."""

    folder: Inside = Field(
        ".", description="folder below which the pictures lie; where it is absent, the source itself"
    )
    splits: dict[SplitName, Inside] = Field(
        {}, description="split → its folder; a missing val or test is split off train"
    )

    @property
    def has_official_split(self) -> bool:
        """Whether the folders say which picture is in which split."""
        return bool(self.splits)


class ClassFolders(Folders, Labels):
    """One folder a class, with ready split folders above them or without."""

    kind: Literal["class_folders"]
    mask_pattern: str | None = Field(None, description="regex, searched in the file name: masks, left out")

    @field_validator("mask_pattern")
    @classmethod
    def _regex(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _compiled(pattern)
        return pattern


class TextFiles(Folders, Texts):
    """Pictures, each with its text in a file of the same name beside it: x.png and x.txt."""

    kind: Literal["text_files"]


class Table(Files, Labels, Texts):
    """A table (CSV, TSV or parquet) that names pictures, and their labels or texts."""

    kind: Literal["csv"]
    file: Inside | None = Field(None, description="the table, relative to the source, or its name anywhere below")
    files: dict[SplitName, Inside] = Field({}, description="instead of file: split → its table")
    image: str = Field(description="column: picture file, with or without folder and extension")
    label: str | None = Field(None, description="column: label")
    label_columns: tuple[str, ...] = Field(
        (), description="instead of label: a column a class, 1 or true = present; 0, false, empty, -1 (uncertain) = not"
    )
    separator: str = Field(
        "|", min_length=1, description="between the classes of the label column of a multilabel task"
    )
    text: str | None = Field(None, description="column: report or caption")
    group: str | None = Field(None, description="column: patient, lesion or study; never in two splits")
    group_file: Inside | None = Field(
        None, description="further table with the columns image and group, where the first has no group"
    )
    split: str | None = Field(None, description="column: official split")
    split_names: dict[str, SplitName] = Field(
        {"train": "train", "val": "val", "test": "test"}, description="value of the split column → split"
    )
    folders: tuple[Inside, ...] = Field(
        (), description="picture folders, searched in order; without any, the source itself"
    )
    extensions: tuple[str, ...] = Field((), description="tried in order where the column has none, such as .jpg")
    ignore_labels: tuple[str, ...] = Field((), description="rows with these labels are left out, and counted")
    attributes: dict[str, str] = Field({}, description="name in the manifest → column to keep there")
    address: str | None = Field(None, description="column: where each picture is on the web, for --list-files")

    @model_validator(mode="after")
    def _one_way(self) -> "Table":
        if (self.file is None) == (not self.files):
            raise ValueError("give file, or files with a table a split")
        if self.label and self.label_columns:
            raise ValueError("give label or label_columns, not both")
        if self.files and self.split:
            raise ValueError("give files or split, not both")
        return self

    @field_validator("attributes")
    @classmethod
    def _free_names(cls, attributes: dict[str, str]) -> dict[str, str]:
        if taken := sorted(set(attributes) & {*COLUMNS, "stratum", "text", "uncertain"}):
            raise ValueError(f"{', '.join(taken)}: the manifest has columns of that name; choose another")
        return attributes

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        if any(not extension.startswith(".") for extension in extensions):
            raise ValueError("extensions begin with a dot, such as .jpg")
        return extensions

    @property
    def has_official_split(self) -> bool:
        """Whether the table says which picture is in which split."""
        return bool(self.split or self.files)


class Npz(Strict):
    """One .npz of the MedMNIST kind: <split>_images and <split>_labels; label k is the k-th class."""

    kind: Literal["npz"]
    file: Inside = Field(description="the .npz file, relative to the source")
    has_official_split: ClassVar[bool] = True


class MimicCxr(Texts):
    """MIMIC-CXR-JPG 2.x: official split, views and labels from its CSV files, texts from the zip of reports."""

    kind: Literal["mimic_cxr"]
    views: tuple[str, ...] = Field(("PA", "AP"), min_length=1, description="values of ViewPosition to take")
    labeller: Literal["chexpert", "negbio"] | None = Field("chexpert", description="whose labels; null = none")
    train_images: int | None = Field(
        None, ge=1, description="so many training pictures, chosen by split.seed; null = all"
    )
    has_official_split: ClassVar[bool] = True


Layout = Annotated[ClassFolders | Table | TextFiles | Npz | MimicCxr, Field(discriminator="kind")]
KINDS: dict[str, type[Strict]] = {
    "class_folders": ClassFolders,
    "csv": Table,
    "text_files": TextFiles,
    "npz": Npz,
    "mimic_cxr": MimicCxr,
}


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
