"""Each layout in the form of its public download, written by the tests."""

import gzip
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest
from downloads import noise, write_dicom, write_mimic

from medpeft_cli.data.card import load_card
from medpeft_cli.data.layouts import list_source
from medpeft_cli.errors import DataError


def brief(listing):
    return [(sample.id, sample.label, sample.group) for sample in listing.samples]


# ---- the public downloads ----


@pytest.mark.parametrize("folders", [("HAM10000_images_part_1", "HAM10000_images_part_2"), ("HAM10000_images",) * 2])
def test_ham10000_in_two_parts_or_one(tmp_path, write_picture, folders):
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number, dx in enumerate(load_card("isic").classes * 2):
        rows.append(f"HAM_{number // 2:07},ISIC_{number:07},{dx},histo,80.0,male,scalp")
        write_picture(tmp_path / folders[number % 2] / f"ISIC_{number:07}.jpg", number)
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    listing = list_source(load_card("isic"), tmp_path)
    assert brief(listing)[:2] == [("ISIC_0000000", "akiec", "HAM_0000000"), ("ISIC_0000001", "bcc", "HAM_0000000")]
    assert len(listing.samples) == 14 and not listing.left_out
    assert listing.samples[0].attributes["sex"] == "male"


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab", "deeper/HAM10000_metadata.csv.gz"])
def test_the_table_of_ham10000_has_the_names_that_the_dataverse_gives_it(tmp_path, write_picture, name):
    rows = ["lesion_id\timage_id\tdx\tdx_type\tage\tsex\tlocalization\tdataset"]
    rows.append('"HAM_0000118"\t"ISIC_0027419"\t"bkl"\t"histo"\t80.0\t"male"\t"scalp"\t"vidir_modern"')
    write_picture(tmp_path / "HAM10000_images_part_1/ISIC_0027419.jpg")
    text = ("\n".join(rows) + "\n").encode()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    listing = list_source(load_card("isic"), tmp_path)
    assert brief(listing) == [("ISIC_0027419", "bkl", "HAM_0000118")] and not listing.left_out


@pytest.mark.parametrize("given", ["Dataset_BUSI_with_GT", "."])
def test_busi_masks_are_left_out_and_listed(tmp_path, write_picture, given):
    for name in ("benign", "malignant", "normal"):
        for suffix in ("", "_mask", "_mask_1"):
            write_picture(tmp_path / "Dataset_BUSI_with_GT" / name / f"{name} (1){suffix}.png")
    listing = list_source(load_card("breastus"), tmp_path / given)
    assert [sample.id for sample in listing.samples] == [f"{n}/{n} (1).png" for n in ("benign", "malignant", "normal")]
    assert [reason for _, reason in listing.left_out] == ["mask"] * 6


def test_fitzpatrick_keeps_skin_type_and_lists_absent_pictures(tmp_path, write_picture):
    (tmp_path / "fitzpatrick17k.csv").write_text(
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum\n"
        '5e82a45bc5d78bd24ae9202d194423f8,3,3,"drug induced, pigmentary",inflammatory,non-neoplastic,,http://x/a.jpg,a\n'
        "fa2911a9b13b6f8af79cb700937cc14f,-1,1,melanoma,malignant melanoma,malignant,,http://x/b.jpg,b\n"
        "d2bac3c9e4499032ca8e9b07c7d3bc40,2,3,lipoma,benign dermal,benign,,http://x/c.jpg,c\n"
    )
    for seed, name in enumerate(("5e82a45bc5d78bd24ae9202d194423f8", "fa2911a9b13b6f8af79cb700937cc14f")):
        write_picture(tmp_path / "images" / f"{name}.jpg", seed)
    listing = list_source(load_card("fitzpatrick"), tmp_path)
    assert [(s.label, s.attributes["skin_type"]) for s in listing.samples] == [
        ("non-neoplastic", "3"),
        ("malignant", "-1"),
    ]
    assert listing.samples[0].attributes["condition"] == "drug induced, pigmentary"
    assert listing.left_out == [("d2bac3c9e4499032ca8e9b07c7d3bc40 (fitzpatrick17k.csv:4)", "no such picture")]


@pytest.mark.parametrize("folder", ["full-fundus/full-fundus", "full-fundus"])
def test_smdg_suspects_are_left_out(tmp_path, write_picture, folder):
    names = ["BEH-1", "BEH-2", "DRISHTI-GS1-3"]
    for seed, name in enumerate(names):
        write_picture(tmp_path / folder / f"{name}.png", seed)
        write_picture(tmp_path / "optic-disc/optic-disc" / f"{name}.png", seed)  # segmentations carry the same names
    lines = [f"{name},{kind},/full-fundus/{name}.png" for name, kind in zip(names, (0, 1, -1), strict=True)]
    (tmp_path / "metadata - standardized.csv").write_text("\n".join(["names,types,fundus", *lines]) + "\n")
    listing = list_source(load_card("smdg"), tmp_path)
    assert brief(listing) == [("BEH-1", "healthy", "BEH-1"), ("BEH-2", "glaucoma", "BEH-2")]
    assert listing.left_out == [("DRISHTI-GS1-3 (metadata - standardized.csv:4)", "label '-1' is ignored")]
    assert listing.samples[0].file == f"{folder}/BEH-1.png"


@pytest.fixture
def rsna(tmp_path):
    """RSNA 2018: JPEG-compressed DICOM files, one row a box."""
    rows = ["patientId,x,y,width,height,Target"]
    for number in range(12):
        name = f"{number:04d}6cda-09d4-425b-8d37-6b80b9df1be3"
        write_dicom(tmp_path / f"stage_2_train_images/{name}.dcm", noise(number), jpeg=True, PatientID=name)
        boxes = [f"{name},{100.0 + 300 * box},152.0,213.0,379.0,1" for box in range(number % 3)]
        rows += boxes or [f"{name},,,,,0"]
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join(rows) + "\n")
    write_dicom(tmp_path / "stage_2_test_images/without-label.dcm", noise(99))
    return tmp_path


def test_rsna_boxes_of_one_patient_are_one_picture(rsna):
    listing = list_source(load_card("pneumonia"), rsna)
    assert Counter(sample.label for sample in listing.samples) == {"normal": 4, "pneumonia": 8}
    assert all(sample.group == sample.id and sample.file.endswith(".dcm") for sample in listing.samples)
    assert listing.notes == [
        "rows that name their picture without extension: 16 .dcm",
        "4 further rows of stage_2_train_labels.csv for pictures already listed",
    ]
    assert not listing.left_out  # the test pictures lie outside the card's folder
    assert np.asarray(listing.read(listing.samples[0])).shape == (24, 30)


def test_rsna_as_png_of_the_same_names(rsna, write_picture):
    for path in (rsna / "stage_2_train_images").iterdir():
        path.unlink()
        write_picture(path.with_suffix(".png"), int(path.name[:4]))
    assert len(list_source(load_card("pneumonia"), rsna).samples) == 12


ISIC = "MEL,NV,BCC,AKIEC,BKL,DF,VASC"


@pytest.fixture
def isic2018(tmp_path, write_picture):
    """ISIC 2018 task 3: three inputs, three ground truths, lesions of the training pictures."""
    number = 0
    for part, count in (("Training", 21), ("Validation", 7), ("Test", 7)):
        rows = [f"image,{ISIC}"]
        for row in range(count):
            name = f"ISIC_{24306 + number:07}"
            rows.append(name + "".join(",1.0" if row % 7 == column else ",0.0" for column in range(7)))
            write_picture(tmp_path / f"ISIC2018_Task3_{part}_Input/{name}.jpg", number)
            number += 1
        (tmp_path / f"ISIC2018_Task3_{part}_GroundTruth").mkdir()
        table = tmp_path / f"ISIC2018_Task3_{part}_GroundTruth/ISIC2018_Task3_{part}_GroundTruth.csv"
        table.write_text("\n".join(rows) + "\n")
        (tmp_path / f"ISIC2018_Task3_{part}_Input/ATTRIBUTION.txt").write_text("…")
    groups = [f"ISIC_{24306 + row:07},HAM_{row // 2:07},histopathology" for row in range(21)]
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "image,lesion_id,diagnosis_confirm_type\n" + "\n".join(groups) + "\n"
    )
    return tmp_path


def test_isic_2018_has_its_official_split_and_lesions(isic2018):
    listing = list_source(load_card("isic2018"), isic2018)
    assert Counter(sample.split for sample in listing.samples) == {"train": 21, "val": 7, "test": 7}
    assert brief(listing)[:3] == [
        ("ISIC_0024306", "mel", "HAM_0000000"), ("ISIC_0024307", "nv", "HAM_0000000"), ("ISIC_0024308", "bcc", "HAM_0000001"),
    ]  # fmt: skip
    assert listing.samples[-1].group == "ISIC_0024340"


def test_the_challenge_and_the_dataverse_are_the_same_dataset(isic2018, tmp_path_factory):
    """HAM10000 is published twice: ids, labels and lesions agree, so that the split does, too."""
    other = tmp_path_factory.mktemp("ham")
    challenge = list_source(load_card("isic"), isic2018)
    (other / "HAM10000_images_part_1").mkdir()
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for sample in challenge.samples:
        shutil.copy(isic2018 / sample.file, other / f"HAM10000_images_part_1/{sample.id}.jpg")
        rows.append(f"{sample.group},{sample.id},{sample.label},histo,80.0,male,scalp")
    (other / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    assert len(challenge.samples) == 21 and brief(list_source(load_card("isic"), other)) == brief(challenge)


def test_without_the_groupings_each_picture_is_its_own_lesion_and_that_is_said(isic2018):
    (isic2018 / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    listing = list_source(load_card("isic"), isic2018)
    assert len({sample.group for sample in listing.samples}) == 21
    assert (
        "no ISIC2018_Task3_Training_LesionGroupings.csv: pictures of one lesion_id may be in two splits"
        in listing.notes
    )


@pytest.mark.parametrize("card", ["fitzpatrick_9way", "fitzpatrick_114"])
def test_fitzpatrick_has_cards_for_its_other_targets(tmp_path, write_picture, card):
    columns = "md5hash,fitzpatrick_scale,label,nine_partition_label,three_partition_label,url"
    (tmp_path / "fitzpatrick17k.csv").write_text(
        f"{columns}\nabc,3,psoriasis,inflammatory,non-neoplastic,http://x/a.jpg\n"
    )
    write_picture(tmp_path / "images/abc.jpg")
    sample = list_source(load_card(card), tmp_path).samples[0]
    assert sample.label == {"fitzpatrick_9way": "inflammatory", "fitzpatrick_114": "psoriasis"}[card]
    assert sample.attributes["skin_type"] == "3" and sample.attributes["three_way"] == "non-neoplastic"


# ---- MIMIC-CXR ----


@pytest.mark.parametrize("zipped", [True, False])
def test_mimic_pairs_a_frontal_view_with_the_impression_or_the_findings(tmp_path, zipped):
    source = write_mimic(tmp_path / "mimic", zipped=zipped)
    listing = list_source(load_card("mimic_cxr"), source)
    texts = {sample.attributes["study"]: sample for sample in listing.samples}
    assert {study: sample.text for study, sample in texts.items()} == {
        "50000001": "No acute process. Discussed by phone.", "50000002": "Moderate cardiomegaly.", "50000003": "Small effusion, unchanged.",
    }  # fmt: skip
    assert [texts[f"5000000{i}"].attributes["section"] for i in (1, 2, 3)] == ["impression", "findings", "impression"]
    assert [texts[f"5000000{i}"].split for i in (1, 2, 3)] == ["train", "train", "val"]
    first = texts["50000001"]
    assert (first.group, first.label, first.attributes["uncertain"]) == (
        "10000001", "Cardiomegaly|Support Devices", "Edema",
    )  # fmt: skip
    assert first.file == f"files/p10/p10000001/s50000001/{first.id}.jpg"
    assert [reason for _, reason in listing.left_out] == ["no impression or findings in its report"] * 2
    assert listing.notes[0] == "5 pictures of other views: LATERAL"
    assert listing.texts["marks"] == 3 and listing.texts["sections"] == {"findings": 1, "impression": 2}
    assert np.abs(np.asarray(listing.read(first), dtype=int) - noise(0)).mean() < 40  # a JPEG of that noise
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mimic"]  # nothing was unpacked


def test_mimic_takes_so_many_training_pictures_and_always_the_same(tmp_path):
    source = write_mimic(tmp_path)
    card = load_card("mimic_cxr")
    few = card.model_copy(update={"layout": card.layout.model_copy(update={"train_images": 1})})
    listing = list_source(few, source)
    assert Counter(sample.split for sample in listing.samples) == {"train": 1, "val": 1}
    assert "1 of 2 training pictures not among the 1 chosen" in listing.notes
    assert listing.samples == list_source(few, source).samples


def test_mimic_pictures_that_are_not_there_are_counted(tmp_path):
    source = write_mimic(tmp_path)
    next((source / "files/p10/p10000001/s50000001").glob("*.jpg")).unlink()
    listing = list_source(load_card("mimic_cxr"), source)
    assert len(listing.samples) == 2 and any(
        note.startswith("1 picture of the tables not below") for note in listing.notes
    )


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("mimic-cxr-2.0.0-split.csv.gz", "no mimic-cxr-2.0.0-split.csv.gz"),
        ("mimic-cxr-2.0.0-chexpert.csv.gz", "no mimic-cxr-2.0.0-chexpert.csv.gz"),
        ("mimic-cxr-reports.zip", "mimic-cxr-reports.zip: no such file"),
    ],
)
def test_a_missing_file_of_mimic_is_named(tmp_path, gone, message):
    (write_mimic(tmp_path) / gone).unlink()
    with pytest.raises(DataError, match=message):
        list_source(load_card("mimic_cxr"), tmp_path)


def test_views_that_are_not_there_are_answered_with_those_that_are(tmp_path):
    card = load_card("mimic_cxr")
    card = card.model_copy(update={"layout": card.layout.model_copy(update={"views": ("pa",)})})
    with pytest.raises(DataError, match="no picture of the views pa") as caught:
        list_source(card, write_mimic(tmp_path))
    assert caught.value.hint == "the table has the views AP, LATERAL, PA"


@pytest.mark.parametrize("name", ["mimic-cxr-reports.zip", "mimic-cxr-2.0.0-metadata.csv.gz"])
def test_damaged_archives_of_mimic_are_named(tmp_path, name):
    path = write_mimic(tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{name}: damaged archive"):
        list_source(load_card("mimic_cxr"), tmp_path)


def test_ids_that_are_paths_are_refused(tmp_path):
    source = write_mimic(tmp_path)
    table = source / "mimic-cxr-2.0.0-metadata.csv.gz"
    table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()).replace(b",50000001,", b",../../etc,")))
    with pytest.raises(DataError, match=r"metadata.csv.gz:2: got '10000001', '../../etc'"):
        list_source(load_card("mimic_cxr"), source)


def test_links_out_of_the_pictures_of_mimic_are_refused(tmp_path):
    source = write_mimic(tmp_path / "mimic")
    target = next((source / "files/p10/p10000001/s50000001").glob("*.jpg"))
    target.rename(tmp_path / "elsewhere.jpg")
    target.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(DataError, match="a link to .*elsewhere.jpg"):
        list_source(load_card("mimic_cxr"), source)


@pytest.mark.parametrize("name", ["mimic-cxr-reports.zip", "mimic-cxr-2.0.0-split.csv.gz", "files"])
def test_links_out_of_the_folder_of_mimic_are_refused(tmp_path, name):
    path = write_mimic(tmp_path / "mimic") / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{name}: a link to .*elsewhere"):
        list_source(load_card("mimic_cxr"), tmp_path / "mimic")


# ---- DICOM folders ----


def test_a_folder_of_dicom_files_takes_the_patient_from_the_header(tmp_path, make_card):
    for number in range(8):
        path = tmp_path / "ab"[number % 2] / f"1.2.840.{number}"
        write_dicom(path, noise(number), PatientID=f"P{number // 4}")
    listing = list_source(make_card({"kind": "class_folders", "group_tag": "PatientID"}), tmp_path)
    assert Counter(sample.group for sample in listing.samples) == {"P0": 4, "P1": 4}
    assert np.array_equal(listing.read(listing.samples[0]), noise(0))


def test_a_table_of_dicom_files_takes_the_patient_from_the_header(tmp_path, make_card):
    rows = ["image,label"]
    for number in range(4):
        write_dicom(tmp_path / f"scans/IM{number}", noise(number), PatientID=f"P{number // 2}")
        rows.append(f"IM{number},{'ab'[number % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    layout = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label", "group_tag": "PatientID"}
    listing = list_source(make_card(layout), tmp_path)
    assert [sample.group for sample in listing.samples] == ["P0", "P0", "P1", "P1"]


# ---- class folders ----


def test_ready_splits_and_a_group_in_the_file_name(tmp_path, write_picture, make_card):
    for split, number in (("Train", 1), ("Test", 2)):
        for name in "AB":
            write_picture(tmp_path / split / name / "deep" / f"{name}{number}_7.png", number)
    layout = {
        "kind": "class_folders",
        "splits": {"train": "Train", "test": "Test"},
        "labels": {"A": "a", "B": "b"},
        "group_pattern": r"^(\w\d)_",
    }
    found = [(s.label, s.group, s.split) for s in list_source(make_card(layout), tmp_path).samples]
    assert found == [("a", "A2", "test"), ("b", "B2", "test"), ("a", "A1", "train"), ("b", "B1", "train")]


def test_what_is_no_picture_of_a_class_is_listed(class_folders, write_picture, make_card):
    write_picture(class_folders / "other/x.png")
    write_picture(class_folders / "loose.png")
    (class_folders / "a/notes.txt").write_text("x")
    (class_folders / "a/._a0.png").write_bytes(b"\0\5\x16\7")  # what macOS puts beside each file of an archive
    listing = list_source(make_card({"kind": "class_folders"}), class_folders)
    assert len(listing.samples) == 20
    assert sorted(listing.left_out) == [
        ("a/._a0.png", "not a picture file"),
        ("a/notes.txt", "not a picture file"),
        ("loose.png", "not in the folder of a class"),
        ("other/x.png", "not in the folder of a class"),
    ]


def test_an_empty_class_is_named_with_the_folders_found(class_folders, make_card):
    for path in (class_folders / "b").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="class 'b' has no picture") as caught:
        list_source(make_card({"kind": "class_folders"}), class_folders)
    assert "folders found: a, b" in caught.value.hint


def test_a_missing_source_or_split_folder_is_said(class_folders, make_card):
    with pytest.raises(DataError, match="no such folder") as caught:
        list_source(make_card({"kind": "class_folders"}), class_folders / "none")
    assert caught.value.hint == "give the folder of your files as --source"
    own = make_card({"kind": "class_folders"}, access="open", url="http://x")
    with pytest.raises(DataError, match="no such folder") as caught:
        list_source(own, class_folders / "none")
    assert caught.value.hint == "`medpeft prepare YOUR_CARD.yaml` says what to download and from where"
    with pytest.raises(DataError, match="no such folder") as caught:
        list_source(load_card("isic"), class_folders / "none")
    assert caught.value.hint == "`medpeft prepare isic` says what to download and from where"
    with pytest.raises(DataError, match="Test: no such folder, wanted the test split"):
        list_source(make_card({"kind": "class_folders", "splits": {"train": ".", "test": "Test"}}), class_folders)


@pytest.mark.parametrize("inside", [True, False])
def test_links_are_followed_to_files_of_the_source_only(class_folders, tmp_path, write_picture, make_card, inside):
    outside = write_picture(tmp_path / "elsewhere.png", 7)
    (class_folders / "a/link.png").symlink_to(class_folders / "a/a0.png" if inside else outside)
    if inside:
        assert len(list_source(make_card({"kind": "class_folders"}), class_folders).samples) == 21
    else:
        with pytest.raises(DataError, match="a link to .*elsewhere.png"):
            list_source(make_card({"kind": "class_folders"}), class_folders)


def test_a_link_to_nothing_is_refused(class_folders, make_card):
    (class_folders / "a/gone.png").symlink_to(class_folders / "a/none.png")
    with pytest.raises(DataError, match="gone.png: a link to .*none.png, which is not there"):
        list_source(make_card({"kind": "class_folders"}), class_folders)


def test_a_link_to_a_folder_is_refused(class_folders, tmp_path, make_card):
    (class_folders / "c").symlink_to(tmp_path)
    with pytest.raises(DataError, match="c: a link to"):
        list_source(make_card({"kind": "class_folders"}), class_folders)


# ---- pictures with text files ----


def test_text_files_beside_pictures(tmp_path, write_picture, make_card):
    texts = {
        "Train/p1_a": "FINDINGS: f. IMPRESSION: clear.",
        "Train/p1_b": "HISTORY: none",
        "Test/p2_a": "\ufeffIMPRESSION: é",
    }
    for seed, (name, text) in enumerate(texts.items()):
        write_picture(tmp_path / f"{name}.png", seed)
        (tmp_path / f"{name}.txt").write_text(text, encoding="cp1252" if "\ufeff" not in text else "utf-8")
    write_picture(tmp_path / "Train/alone.png", 7)
    (tmp_path / "Train/README.txt").write_text("no picture")
    (tmp_path / "Train/boxes.json").write_text("{}")
    layout = {"kind": "text_files", "splits": {"train": "Train", "test": "Test"}, "group_pattern": r"^(p\d)_",
              "sections": ("impression",)}  # fmt: skip
    listing = list_source(make_card(layout, task="text", classes=()), tmp_path)
    assert [(s.id, s.text, s.group, s.split) for s in listing.samples] == [
        ("Test/p2_a.png", "é", "p2", "test"), ("Train/p1_a.png", "clear.", "p1", "train"),
    ]  # fmt: skip
    assert sorted(listing.left_out) == [
        ("Train/README.txt", "no picture of its name"),
        ("Train/alone.png", "no text file beside it"),
        ("Train/boxes.json", "not a picture file"),
        ("Train/p1_b.png", "no impression in its text"),
    ]
    assert listing.texts["sections"] == {"impression": 2}


@pytest.mark.parametrize(
    ("content", "message"), [(b"a\nb\0", "x.txt:2: no text"), (b"\x81", "x.txt:1: text is neither UTF-8 nor")]
)
def test_a_text_file_that_is_none_is_named(tmp_path, write_picture, make_card, content, message):
    write_picture(tmp_path / "x.png")
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list_source(make_card({"kind": "text_files"}, task="text", classes=()), tmp_path)


def test_a_text_file_that_is_a_link_out_of_the_source_is_refused(tmp_path, write_picture, make_card):
    write_picture(tmp_path / "source/x.png")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source/x.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="x.txt: a link to"):
        list_source(make_card({"kind": "text_files"}, task="text", classes=()), tmp_path / "source")


# ---- .npz ----


def arrays(images=None, labels=None):
    images = np.zeros((4, 8, 8), np.uint8) if images is None else images
    labels = np.array([[0], [1], [0], [1]]) if labels is None else labels
    return {
        f"{split}_{kind}": array
        for split in ("train", "val", "test")
        for kind, array in (("images", images), ("labels", labels))
    }


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 3)])
def test_medmnist_arrays(tmp_path, make_card, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", **arrays(images))
    listing = list_source(make_card({"kind": "npz", "file": "x.npz"}), tmp_path)
    assert [(s.id, s.label, s.split) for s in listing.samples][:2] == [("test/0", "a", "test"), ("test/1", "b", "test")]
    assert listing.samples[1].file == "x.npz#test/1"
    assert np.array_equal(listing.read(listing.samples[1]), images[1])
    assert np.array_equal(pickle.loads(pickle.dumps(listing.read))(listing.samples[1]), images[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(labels=np.array([0, 1, 2, 0])), "train_labels: got 0 to 2, wanted 0 to 1"),
        (arrays(labels=np.zeros((4, 2), int)), "train_labels: got int64 (4, 2), wanted one whole number per picture"),
        (arrays(labels=np.zeros(4)), "train_labels: got float64"),
        (arrays(images=np.zeros((4, 8, 8), np.float32)), "train_images: got float32 (4, 8, 8), wanted uint8"),
        (arrays(labels=np.array([{}, {}, {}, {}], dtype=object)), "cannot read the arrays"),
        ({"x": np.zeros(3)}, "got arrays none, wanted train_images"),
    ],
)
def test_other_arrays_are_refused(tmp_path, make_card, content, message):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(DataError) as caught:
        list_source(make_card({"kind": "npz", "file": "x.npz"}), tmp_path)
    assert message in caught.value.message


def test_a_pickle_named_npz_is_not_opened(tmp_path, make_card):
    (tmp_path / "x.npz").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(DataError, match="cannot read the arrays: it holds Python objects, or is no .npz") as caught:
        list_source(make_card({"kind": "npz", "file": "x.npz"}), tmp_path)
    assert "allow_pickle" not in caught.value.message
