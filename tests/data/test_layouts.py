"""Each layout in the form of its public download, written by the tests."""

import numpy as np
import pytest

from medpeft_cli.data.card import load_card
from medpeft_cli.data.layouts import list_source
from medpeft_cli.errors import DataError

TABLE = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label", "extensions": (".png",)}


@pytest.fixture
def table(tmp_path, write_picture, make_card):
    """Return a function: write t.csv and x.png, y.png; list them with a csv card."""

    def listing(text: str | bytes, **layout):
        for seed, name in enumerate("xy"):
            write_picture(tmp_path / "source" / f"{name}.png", seed)
        (tmp_path / "source/t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return list_source(make_card(TABLE | layout), tmp_path / "source")

    return listing


def brief(listing):
    return [(sample.id, sample.label, sample.group) for sample in listing.samples]


# ---- the five public downloads ----


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


@pytest.mark.parametrize("suffix", [".dcm", ".png", ".jpg"])
def test_rsna_rows_of_one_patient_are_one_picture(tmp_path, write_picture, suffix):
    (tmp_path / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\np1,,,,,0\np2,264.0,152.0,213.0,379.0,1\np2,562.0,152.0,256.0,453.0,1\n"
    )
    for seed, name in enumerate(("p1", "p2")):
        path = write_picture(tmp_path / "stage_2_train_images" / f"{name}.png", seed, channels=1)
        path.rename(path.with_suffix(suffix))
    listing = list_source(load_card("pneumonia"), tmp_path)
    assert brief(listing) == [("p1", "normal", "p1"), ("p2", "pneumonia", "p2")]
    assert listing.notes == ["1 further rows of stage_2_train_labels.csv name a picture already listed"]


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
    listing = list_source(make_card({"kind": "class_folders"}), class_folders)
    assert len(listing.samples) == 20
    assert sorted(listing.left_out) == [
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
    with pytest.raises(DataError, match="no such folder"):
        list_source(make_card({"kind": "class_folders"}), class_folders / "none")
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


def test_a_link_to_a_folder_is_refused(class_folders, tmp_path, make_card):
    (class_folders / "c").symlink_to(tmp_path)
    with pytest.raises(DataError, match="c: a link to"):
        list_source(make_card({"kind": "class_folders"}), class_folders)


# ---- tables ----


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nx,a\ny,b\n",
        b"\xef\xbb\xbfimage,label\r\nx,a\r\n\r\ny,b\r\n",
        "image,label\nx,a\ny,b\n".encode("utf-16"),
        "image;label;Größe\nx;a;é\ny;b;ü\n".encode("cp1252"),
        "image\tlabel\nx\ta\ny\tb",
        'image,label,\n"x",a,\n y , b ,\n',
        "image,label,other,other\nx,a,1,2\ny,b,3,4\n",
    ],
    ids=[
        "plain",
        "bom-crlf-blank",
        "utf-16",
        "windows-1252-semicolon",
        "tabs",
        "quoted-unnamed-column",
        "doubled-column",
    ],
)
def test_tables_are_read_as_they_come(table, text):
    assert brief(table(text)) == [("x", "a", "x"), ("y", "b", "y")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,lable\nx,a\n", "t.csv:1: label: no such column"),
        ("image,label,label\nx,a,a\n", "t.csv:1: label: two columns of that name"),
        ("image,label\nx,a\ny\n", "t.csv:3: got 1 columns, the header has 2"),
        ("image,label\nx,a\ny,c\n", "t.csv:3: label: got 'c', wanted one of a, b"),
        ('image,label\nx,"a\n', "t.csv:2: unexpected end of data"),
        ("image,label\n", "t.csv: no rows"),
        ("", "t.csv:1: image: no such column"),
        (b"image,label\nx,a\ny\0,b\n", "t.csv:3: not a text table"),
        (b"image,label\nx,a\ny,\x81\n", "t.csv:3: text is neither UTF-8 nor Windows-1252"),
        ("image,label\nq,a\nr,b\n", "none of the 2 pictures it names is there"),
        ("image,label\n../x.png,a\n", "t.csv:2: '../x.png' leads out of the source folder"),
        ("image,label\n/etc/x.png,a\n", "t.csv:2: '/etc/x.png' leads out"),
        ("image,label\nC:\\x.png,a\n", "leads out of the source folder"),
        ("image,label\nd\\..\\..\\x.png,a\n", "leads out of the source folder"),
    ],
)
def test_broken_tables_are_refused_with_the_line(table, text, message):
    with pytest.raises(DataError) as caught:
        table(text)
    assert message in caught.value.message


def test_rows_without_use_are_listed_with_their_line(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/z.png", 9)
    write_picture(tmp_path / "source/unnamed.png", 8)
    listing = table("image,label\nx,a\ny,\nz,todo\n,a\ngone,b\n", ignore_labels=("todo",))
    assert brief(listing) == [("x", "a", "x")]
    assert listing.left_out == [
        ("y (t.csv:3)", "no label"),
        ("z (t.csv:4)", "label 'todo' is ignored"),
        (" (t.csv:5)", "no file name"),
        ("gone (t.csv:6)", "no such picture"),
        ("unnamed.png", "not named in t.csv"),
    ]


def test_two_rows_of_one_picture_join_their_groups_or_disagree(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/z.png", 9)
    listing = table("image,label,who\nx,a,p1\nx.png,a,p2\ny,a,p2\nz,a,p3\nz,b,p3\n", group="who")
    assert brief(listing) == [("x", "a", "p1"), ("y", "a", "p1")]
    assert listing.left_out == [("z.png", "rows of t.csv disagree on its label")]


def test_pictures_are_found_in_sub_folders_and_doubled_names_are_refused(table, write_picture, tmp_path):
    write_picture(tmp_path / "source/deep/er/z.png", 9)
    assert table("image,label\nz,a\n").samples[0].file == "deep/er/z.png"
    write_picture(tmp_path / "source/other/z.png", 9)  # the same bytes: no matter which
    assert table("image,label\nz,a\n").samples[0].file == "deep/er/z.png"
    write_picture(tmp_path / "source/other/z.png", 10)
    with pytest.raises(DataError, match="'z' may be deep/er/z.png or other/z.png"):
        table("image,label\nz,a\n")
    assert table("image,label\nother/z,a\n").samples[0].file == "other/z.png"


def test_a_split_column_is_the_official_split(table):
    listing = table(
        "image,label,fold\nx,a,learn\ny,b,exam\n", split="fold", split_names={"learn": "train", "exam": "test"}
    )
    assert [sample.split for sample in listing.samples] == ["train", "test"]
    with pytest.raises(DataError, match="t.csv:3: fold: got 'exma', wanted one of learn, exam"):
        table("image,label,fold\nx,a,learn\ny,b,exma\n", split="fold", split_names={"learn": "train", "exam": "test"})


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
    with pytest.raises(DataError, match="cannot read the arrays"):
        list_source(make_card({"kind": "npz", "file": "x.npz"}), tmp_path)
