"""Drafted cards are accepted by prepare as they are."""

from collections import Counter

import numpy as np
import pytest
from downloads import noise, write_dicom, write_mimic

from medpeft_cli.data.card import load_card
from medpeft_cli.data.draft import write_draft
from medpeft_cli.data.layouts import list_source
from medpeft_cli.data.prepare import prepare
from medpeft_cli.errors import DataError, RecipeError


@pytest.fixture
def drafted(tmp_path):
    """Draft the card of tmp_path/source, and load it; returns card, listing and what was found."""

    def go():
        path = tmp_path / "drafted.yaml"
        _, found = write_draft(tmp_path / "source", str(path))
        card = load_card(path)
        return card, list_source(card, tmp_path / "source"), found

    return go


def test_class_folders_with_patients_in_the_names(drafted, tmp_path, write_picture):
    for patient in range(8):
        for view in (1, 2):
            name = f"pictures/{('ill', 'well')[patient % 2]}/{100 + patient}_{view}.png"
            write_picture(tmp_path / "source" / name, 10 * patient + view)
    write_picture(tmp_path / "source/pictures/ill/100_1_mask.png", 3)
    write_picture(tmp_path / "source/pictures/few/900_1.png", 4)
    card, listing, found = drafted()
    assert card.classes == ("ill", "well") and card.layout.folder == "pictures"
    assert len(listing.samples) == 16 and len({sample.group for sample in listing.samples}) == 8
    assert Counter(reason for _, reason in listing.left_out) == {"mask": 1, "not in the folder of a class": 1}
    assert "left aside, unclear or in fewer than 3 groups: few 1" in found
    assert r"groups, never in two splits: 9 by the file name, ^(\d{2,})_" in found
    assert prepare(card, tmp_path / "source", tmp_path / "root").counts("train")["ill"] >= 4


def test_ready_split_folders(drafted, tmp_path, write_picture):
    for picture in range(4):
        write_picture(tmp_path / f"source/unlabelled/{picture}.png", 100 + picture)
    for number, split in enumerate(("Training", "valid", "TEST")):
        for label in ("cat scan", "x ray"):
            for picture in range(3):
                write_picture(tmp_path / f"source/{split}/{label}/{split}{picture}.png", 10 * number + picture)
    card, listing, found = drafted()
    assert card.official and Counter(sample.split for sample in listing.samples) == {"train": 6, "val": 6, "test": 6}
    assert card.classes == ("cat scan", "x ray") and "left aside, beside the splits: unlabelled 4" in found
    assert "ready splits: TEST = test, Training = train, valid = val" in found


def table(tmp_path, write_picture, header, row, name="labels.csv", count=12):
    lines = [header]
    for number in range(count):
        write_picture(tmp_path / f"source/images/im{number}.png", number)
        lines.append(row(number))
    (tmp_path / "source" / name).write_text("\n".join(lines) + "\n")


UNCLEAR = '"todo, or not"'


def test_a_table_with_group_split_text_and_a_placeholder(drafted, tmp_path, write_picture):
    parts = ("training", "training", "validation", "testing")
    table(tmp_path, write_picture, "file,patient_id,sex,diagnosis,fold,notes,",
          lambda n: f"im{n},p{n // 2},F,{UNCLEAR if n == 11 else ('No', 'Yes')[n % 2]},{parts[n // 2 % 4]},"
                    f"\"a long note, number {n} of many words\",")  # fmt: skip
    card, listing, found = drafted()
    assert "groups, never in two splits: 6 by the column patient_id" in found
    assert "left aside, unclear or in fewer than 3 groups: 'todo, or not' 1" in found
    layout = card.layout
    assert (layout.image, layout.label, layout.group, layout.split, layout.text) == (
        "file", "diagnosis", "patient_id", "fold", "notes",
    )  # fmt: skip
    assert (
        card.classes == ("No", "Yes")
        and layout.ignore_labels == ("todo, or not",)
        and layout.attributes == {"sex": "sex"}
    )
    assert len(listing.samples) == 11 and listing.samples[0].text.startswith("a long note")
    assert prepare(card, tmp_path / "source", tmp_path / "root").counts("test") == {"No": 1, "Yes": 1}


def test_a_table_a_split(drafted, tmp_path, write_picture):
    for split, part in (("train", range(12)), ("Validation", range(12, 18)), ("my-test", range(18, 24))):
        rows = [f"im{n}.png,{'ab'[n % 2]}" for n in part]
        for n in part:
            write_picture(tmp_path / f"source/im{n}.png", n)
        (tmp_path / f"source/{split}.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    (tmp_path / "source/notes.csv").write_text("file,label\nim1.png,a\nim2.png,b\nim3.png,a\n")
    card, listing, found = drafted()
    assert card.layout.files == {"train": "train.csv", "val": "Validation.csv", "test": "my-test.csv"}
    assert Counter(sample.split for sample in listing.samples) == {"train": 12, "val": 6, "test": 6}
    assert "tables Validation.csv, my-test.csv, train.csv: 24 rows; columns file, label" in found


def test_what_is_left_aside_is_said_with_its_part_of_the_pictures(drafted, tmp_path, write_picture):
    table(tmp_path, write_picture, "file,label", lambda n: f"im{n}.png,{'ab'[n % 2]}")
    (tmp_path / "source/some.csv").write_text("file,kind\n" + "".join(f"im{n}.png,{'xy'[n % 2]}\n" for n in range(8)))
    card, _, found = drafted()
    assert card.layout.file == "labels.csv" and "table left aside, it names 8 of 12 pictures: some.csv" in found


def test_a_column_a_class(drafted, tmp_path, write_picture):
    table(tmp_path, write_picture, "id,edema,effusion,mass", lambda n: f"im{n}.png,{n % 2},{int(n % 3 == 0)},{-(n % 2)}".replace(
        "-1", "-1.0").replace(",0\n", ",1\n") if n else "im0.png,1,1,1")  # fmt: skip
    card, listing, _ = drafted()
    assert card.task == "multilabel" and card.classes == ("edema", "effusion", "mass")
    assert listing.samples[0].label == "edema|effusion|mass"


def test_one_hot_columns(drafted, tmp_path, write_picture):
    table(
        tmp_path,
        write_picture,
        "id,MEL,NV,BCC",
        lambda n: f"im{n}," + ",".join("1.0" if n % 3 == k else "0.0" for k in range(3)),
    )
    card, listing, _ = drafted()
    assert card.task == "classify" and Counter(sample.label for sample in listing.samples) == {
        "MEL": 4,
        "NV": 4,
        "BCC": 4,
    }


def test_joined_labels(drafted, tmp_path, write_picture):
    table(
        tmp_path,
        write_picture,
        "Image Index,Finding Labels",
        lambda n: f"im{n}.png,{('Mass', 'Edema|Mass', 'Edema')[n % 3]}",
    )
    card, listing, _ = drafted()
    assert card.task == "multilabel" and Counter(sample.label for sample in listing.samples)["Edema|Mass"] == 4


def test_pictures_and_reports(drafted, tmp_path, write_picture):
    table(tmp_path, write_picture, "image\treport", lambda n: f"im{n}.png\tFINDINGS: clear IMPRESSION: normal chest number {n}",
          "reports.tsv")  # fmt: skip
    card, listing, _ = drafted()
    assert card.task == "text" and card.layout.sections == ("impression", "findings")
    assert listing.samples[0].text == "normal chest number 0"
    assert prepare(card, tmp_path / "source", tmp_path / "root").texts


def test_pictures_with_text_files(drafted, tmp_path, write_picture):
    for number in range(12):
        write_picture(tmp_path / f"source/p1{number // 3}/x{number}.png", number)
        text = f"FINDINGS: clear lungs. IMPRESSION: normal chest number {number}"
        (tmp_path / f"source/p1{number // 3}/x{number}.txt").write_text(text)
    card, listing, found = drafted()
    assert card.task == "text" and card.layout.kind == "text_files" and len(listing.samples) == 12
    assert listing.samples[0].text == "normal chest number 0"
    assert "texts: 12 of 12 pictures have a text file of their name" in found


def test_boxes_beside_pictures_are_no_texts(drafted, tmp_path, write_picture):
    for number in range(12):
        write_picture(tmp_path / f"source/{'ab'[number % 2]}/x{number}.png", number)
        (tmp_path / f"source/{'ab'[number % 2]}/x{number}.txt").write_text(f"0 0.{number} 0.5 0.1 0.2\n")
    assert drafted()[0].layout.kind == "class_folders"


def test_dicom_folders(drafted, tmp_path):
    for number in range(12):
        write_dicom(tmp_path / f"source/{'ab'[number % 2]}/IM{number:04}", noise(number), PatientID=f"P{number // 2}")
    card, listing, found = drafted()
    assert card.layout.group_tag == "PatientID" and len({sample.group for sample in listing.samples}) == 6
    assert "groups, never in two splits: by the DICOM tag PatientID" in found
    assert found[0] == "12 files (12 without extension), 12 pictures"


def test_arrays(drafted, tmp_path):
    (tmp_path / "source").mkdir()
    arrays = {f"{split}_images": np.zeros((4, 8, 8), np.uint8) for split in ("train", "val", "test")}
    labels = {f"{split}_labels": np.array([[0], [1], [2], [0]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "source/x.npz", **arrays, **labels)
    card, listing, _ = drafted()
    assert card.classes == ("class 0", "class 1", "class 2") and len(listing.samples) == 12


@pytest.mark.parametrize("labels", [np.array(["a", "b"]), np.array([], dtype=int), np.zeros(2)])
def test_arrays_without_whole_numbers_for_labels_are_said(drafted, tmp_path, labels):
    (tmp_path / "source").mkdir()
    np.savez(tmp_path / "source/x.npz", train_images=np.zeros((2, 8, 8), np.uint8), train_labels=labels)
    with pytest.raises(DataError, match="x.npz: train_labels: got .*, wanted whole numbers"):
        drafted()


def test_the_whole_challenge_is_recognised_beside_its_training_part(tmp_path, write_picture):
    for part in ("Training", "Validation", "Test"):
        write_picture(tmp_path / f"ISIC2018_Task3_{part}_Input/x.jpg")
        table = tmp_path / f"ISIC2018_Task3_{part}_GroundTruth/ISIC2018_Task3_{part}_GroundTruth.csv"
        table.parent.mkdir()
        table.write_text("image\n")
        _, found = write_draft(tmp_path, None)
        name = "isic2018" if part == "Test" else "isic"
        assert f"the download of card {name}: medpeft prepare {name} does it" in found


def test_an_empty_folder_is_said(drafted, tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(DataError, match="source: no files, 0 pictures"):
        drafted()


def test_a_known_download_is_recognised(drafted, tmp_path):
    write_mimic(tmp_path / "source")
    card, listing, found = drafted()
    assert "the download of card mimic_cxr: medpeft prepare mimic_cxr does it" in found
    assert card.name == "drafted" and len(listing.samples) == 3


def test_busi_is_recognised_by_its_own_folder(tmp_path, write_picture):
    for label in ("benign", "malignant", "normal"):
        for number in range(3):
            write_picture(tmp_path / f"Dataset_BUSI_with_GT/{label}/{label} ({number}).png", number)
    _, found = write_draft(tmp_path / "Dataset_BUSI_with_GT", None)
    assert "the download of card breastus: medpeft prepare breastus does it" in found


@pytest.mark.parametrize(
    ("column", "unit"), [("lesion_id", "lesion"), ("Subject", "patient"), ("PATIENT_ID", "patient")]
)
def test_a_group_is_called_what_its_column_says(drafted, tmp_path, write_picture, column, unit):
    table(tmp_path, write_picture, f"name,{column},dx", lambda n: f"im{n},{n // 2},{'ab'[n // 2 % 2]}")
    card, _, _ = drafted()
    assert card.split.group == unit and card.layout.group == column


def test_the_same_name_in_two_folders_is_one_picture_and_no_patient(drafted, tmp_path, write_picture):
    for label in "ab":
        for number in range(4):
            write_picture(tmp_path / f"source/{label}/ISIC_{number + (label == 'b') * 3:07}.png", number)
    card, _, found = drafted()
    assert card.split.group == "file name" and "groups, never in two splits: 7 by the whole file name" in found


def test_what_the_source_names_is_text_and_no_yaml(drafted, tmp_path, write_picture):
    for number in range(3):
        for label in ("yes: [", "# no\u2028", "null"):
            write_picture(tmp_path / f"source/{label}/x{number}.png", number)
    card, _, _ = drafted()
    assert sorted(card.classes) == ["# no\u2028", "null", "yes: ["]


def test_a_table_that_cannot_be_read_is_said(drafted, class_folders):
    (class_folders / "broken.csv").write_text('file,label\n"x,a\n')
    _, listing, found = drafted()
    assert len(listing.samples) == 20
    assert any(line.startswith("table that cannot be read: ") and "broken.csv:2" in line for line in found)


def test_a_broken_table_and_nothing_else_is_said(drafted, tmp_path, write_picture):
    write_picture(tmp_path / "source/x.png")
    (tmp_path / "source/broken.csv").write_text('file,label\n"x,a\n')
    with pytest.raises(DataError, match="table that cannot be read: .*broken.csv:2"):
        drafted()


@pytest.mark.parametrize("loose", [0, 3])
def test_nothing_that_tells_labels_is_said(drafted, tmp_path, write_picture, loose):
    (tmp_path / "source").mkdir()
    for number in range(loose):
        write_picture(tmp_path / f"source/{number}.png", number)
    with pytest.raises(DataError, match=f"{loose} pictures, but no table names them and no two folders have 3 of them"):
        drafted()


def test_an_existing_card_is_not_replaced(class_folders, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(RecipeError, match="is there already"):
        write_draft(class_folders, str(tmp_path / "mine.yaml"))
    with pytest.raises(RecipeError, match="wanted a .yaml file"):
        write_draft(class_folders, "isic")
    assert (tmp_path / "mine.yaml").read_text() == "mine"
