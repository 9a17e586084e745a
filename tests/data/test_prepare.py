import csv
import json
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

from medpeft_cli.data.images import ImageStore
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.manifest import read_manifest
from medpeft_cli.data.prepare import prepare, write_dataset
from medpeft_cli.errors import DataError, RecipeError, RunError

FOLDERS = {"kind": "class_folders"}


@pytest.fixture
def run(class_folders, tmp_path, make_card):
    """Prepare the class folders with a card's layout and options."""

    def go(layout=FOLDERS, fields=None, **options):
        return prepare(make_card(layout, **(fields or {})), class_folders, tmp_path / "root", **options)

    return go


def left_out(manifest):
    return {item["file"]: item["reason"] for item in manifest.info["left_out"]}


def test_pixels_labels_and_splits_arrive(run, class_folders):
    manifest = run()
    store = ImageStore(manifest)
    assert len(store) == 20 and manifest.classes == ("a", "b")
    for index, name in enumerate(manifest.ids):
        assert np.array_equal(store[index], np.asarray(Image.open(class_folders / name)))
        assert manifest.classes[manifest.labels[index]] == name[0]
    assert [manifest.counts(split) for split in ("train", "val", "test")] == [{"a": 7, "b": 7}] + [
        {"a": a, "b": b} for a, b in [(2, 2), (1, 1)]
    ]
    assert manifest.indices("val").tolist() == sorted(manifest.indices("val"))


def test_pictures_are_stored_small_and_grey_as_one_channel(class_folders, run, write_picture):
    write_picture(class_folders / "a/big.png", 5, height=40, width=80)
    write_picture(class_folders / "a/grey.png", 6, height=20, width=20, channels=1)
    manifest = run(size=20)
    shape = dict(zip(manifest.ids, manifest.shapes.tolist(), strict=True))
    assert shape["a/big.png"] == [20, 40, 3]
    assert shape["a/grey.png"] == [20, 20, 1]
    store = ImageStore(manifest)
    want = Image.open(class_folders / "a/big.png").resize((40, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(store[manifest.ids.index("a/big.png")], np.asarray(want))
    assert store[manifest.ids.index("a/grey.png")].shape == (20, 20, 3)


def test_the_hash_moves_with_a_pixel_a_label_a_group_and_the_split_alone(run, class_folders, tmp_path, make_card):
    first = run().sha256
    elsewhere = shutil.copytree(class_folders, tmp_path / "copy")
    assert prepare(make_card(FOLDERS), elsewhere, tmp_path / "other").sha256 == first
    assert run(seed=1).sha256 != first
    assert run({**FOLDERS, "group_pattern": r"(\d)"}).sha256 != first
    pixels = np.array(Image.open(class_folders / "a/a0.png"))
    pixels[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(class_folders / "a/a0.png")
    changed = run().sha256
    assert changed != first
    (class_folders / "a/a0.png").rename(class_folders / "b/a0.png")
    assert run().sha256 not in (first, changed)


def test_the_hash_of_this_dataset_is_pinned(tmp_path, make_card):
    """Records name this hash: it must be the same in every version, on every machine."""
    samples = [Sample(f"i{i:02}", f"i{i:02}", "ab"[i % 2], f"g{i // 2}") for i in range(20)]
    manifest = write_dataset(
        tmp_path / "root", make_card(FOLDERS), samples, lambda sample: np.full((16, 16), int(sample.id[1:]), np.uint8)
    )
    assert manifest.sha256 == "f6644829419d9819fe36163011601a5fce69c06a753216038bdfb127075fe3e4"


def test_a_second_prepare_does_nothing_until_something_changes(run, class_folders, tmp_path, capsys):
    run()
    before = (tmp_path / "root/dataset.json").stat().st_mtime_ns
    run()
    assert "already prepared, nothing to do" in capsys.readouterr().err
    assert (tmp_path / "root/dataset.json").stat().st_mtime_ns == before
    (class_folders / "a/a0.png").unlink()
    assert len(run().ids) == 19
    assert "already prepared" not in capsys.readouterr().err


def test_the_same_picture_under_two_labels_is_left_out_twice(run, class_folders):
    shutil.copy(class_folders / "a/a0.png", class_folders / "b/copy.png")
    manifest = run()
    reason = "identical pixels under 'a' and 'b'"
    assert left_out(manifest) == {"a/a0.png": reason, "b/copy.png": reason}
    assert len(manifest.ids) == 19
    store = ImageStore(manifest)  # the pixels that stay are still found
    assert np.array_equal(store[0], np.asarray(Image.open(class_folders / manifest.ids[0])))


def test_the_same_picture_twice_in_a_class_stays_in_one_split(run, class_folders):
    for number in range(10):
        Image.open(class_folders / f"a/a{number}.png").save(class_folders / f"a/again{number}.bmp")
    manifest = run()
    split = dict(zip(manifest.ids, manifest.splits, strict=True))
    assert all(split[f"a/a{number}.png"] == split[f"a/again{number}.bmp"] for number in range(10))
    assert manifest.info["notes"] == ["10 pictures have the same pixels as another; they share a group"]
    assert manifest.info["duplicates"]["equal"] == 10


def test_groups_do_not_straddle(run):
    manifest = run({**FOLDERS, "group_pattern": r"(\d)"})  # patient n has a picture in each class
    assert len(set(zip(manifest.groups, manifest.splits, strict=True))) == 10


@pytest.fixture
def ready_splits(tmp_path, write_picture):
    for split, offset in (("Train", 0), ("Test", 50)):
        for number in range(offset, offset + 12):
            write_picture(tmp_path / "source" / split / "ab"[number % 2] / f"{number:03}_x.png", number)
    return tmp_path / "source"


def test_val_is_split_off_train_and_test_is_kept(ready_splits, tmp_path, make_card):
    layout = {**FOLDERS, "splits": {"train": "Train", "test": "Test"}}
    manifest = prepare(make_card(layout), ready_splits, tmp_path / "root")
    assert {name for name, split in zip(manifest.ids, manifest.splits, strict=True) if split == "test"} == {
        name for name in manifest.ids if name.startswith("Test/")
    }
    assert manifest.counts("val") == {"a": 1, "b": 1}


def test_an_official_split_without_a_class_names_it(ready_splits, tmp_path, make_card):
    shutil.rmtree(ready_splits / "Test/b")
    layout = {**FOLDERS, "splits": {"train": "Train", "test": "Test"}}
    with pytest.raises(DataError, match="class 'b': no picture in the official test split"):
        prepare(make_card(layout), ready_splits, tmp_path / "root")
    assert prepare(make_card(layout, split={"rule": "stratified"}), ready_splits, tmp_path / "root").counts("test")["b"]


def test_unreadable_pictures_are_named_and_only_left_out_when_allowed(run, class_folders, tmp_path):
    (class_folders / "a/bad.png").write_bytes(b"x")
    (class_folders / "b/worse.jpg").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 of 22 pictures cannot be read .*:\n  a/bad.png: .*\n  b/worse.jpg: "
    ) as caught:
        run(allow_bad=1)
    listed = list(csv.DictReader((tmp_path / "root/unreadable.csv").read_text().splitlines()))
    assert [row["file"] for row in listed] == ["a/bad.png", "b/worse.jpg"] and all(row["reason"] for row in listed)
    assert "--allow-bad 2" in caught.value.hint
    assert not (tmp_path / "root/dataset.json").exists()
    manifest = run(allow_bad=2)
    assert len(manifest.ids) == 20
    assert [reason.partition(":")[0] for reason in left_out(manifest).values()] == ["unreadable", "unreadable"]
    assert not (tmp_path / "root/unreadable.csv").exists()
    with pytest.raises(DataError):
        run()


def test_a_class_of_one_picture_is_named(run, class_folders):
    for path in sorted((class_folders / "b").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"class 'b': 1 image with 1 pictures, wanted 3 at least") as caught:
        run()
    assert caught.value.exit_code == 3 and caught.value.hint


def test_a_class_without_a_row_is_named_before_anything_is_decoded(class_folders, tmp_path, make_card, capsys):
    (class_folders / "t.csv").write_text("image,label\na0,a\na1,a\n")
    layout = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label", "extensions": (".png",)}
    with pytest.raises(DataError, match="class 'b' has no picture, wanted at least 3"):
        prepare(make_card(layout), class_folders, tmp_path / "root")
    assert not capsys.readouterr().err


def test_a_class_of_which_nothing_is_left_is_named(run, class_folders):
    for path in (class_folders / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 'b': no picture is left"):
        run(allow_bad=10)


TEXTS = {"kind": "csv", "file": "t.csv", "image": "image", "text": "text"}


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        ("x.png,,train\ny.png,,train\n", None, "mine: no picture is left; left out 2: no text"),
        ("x.png,one,test\ny.png,two,test\n", "split", "no picture in the official train split"),
    ],
)
def test_a_dataset_without_training_pictures_is_refused(tmp_path, write_picture, make_card, rows, split, message):
    for seed, name in enumerate("xy"):
        write_picture(tmp_path / "source" / f"{name}.png", seed)
    (tmp_path / "source/t.csv").write_text(f"image,text,split\n{rows}")
    card = make_card(TEXTS | {"split": split}, task="text", classes=())
    with pytest.raises(DataError, match=message):
        prepare(card, tmp_path / "source", tmp_path / "root")


def test_check_reports_and_writes_nothing(run, tmp_path, capsys):
    assert len(run(check=True).ids) == 20
    assert "mine: 20 pictures" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_counts_other_than_expected_are_a_warning(run, capsys):
    manifest = run(fields={"expected": {"images": 21, "a": 10, "b": 11}})
    assert manifest.info["warnings"] == [
        "20 pictures in all, card 'mine' expects 21",
        "10 pictures of class 'b', card 'mine' expects 11",
    ]
    assert "warning: 20 pictures in all" in capsys.readouterr().err


def test_other_folders_are_never_overwritten(run, class_folders, tmp_path, make_card):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds 'thesis.txt', which is not part of a prepared dataset"):
        run()
    with pytest.raises(DataError, match="lies inside the source"):
        prepare(make_card(FOLDERS), class_folders, class_folders / "root")


def test_a_root_that_cannot_be_written_is_a_run_error(class_folders, tmp_path, make_card):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written, not a directory") as caught:
        prepare(make_card(FOLDERS), class_folders, tmp_path / "file/root")
    assert caught.value.exit_code == 4


def test_a_full_disk_leaves_no_dataset_and_keeps_the_earlier_one(run, class_folders, write_picture, tmp_path):
    earlier = run().sha256
    write_picture(class_folders / "a/new.png", 77)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(RunError, match="cannot be written, file too large"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "root").glob("**/*.partial"))
    assert json.loads((tmp_path / "root/dataset.json").read_text())["sha256"] == earlier


def test_what_earlier_starts_and_versions_left_is_no_dataset_and_is_cleared(run, tmp_path, make_card):
    (tmp_path / "root/images").mkdir(parents=True)
    for name in (
        "images.bin",
        "images.bin.partial",
        "manifest.csv",
        "images/0123.bin",
        "images/0123.npy.host.1.partial",
    ):
        (tmp_path / "root" / name).write_bytes(b"half")
    with pytest.raises(DataError, match="no prepared dataset"):
        read_manifest(tmp_path / "root", make_card(FOLDERS))
    piece, _ = run().info["pieces"][0]
    assert {path.name for path in (tmp_path / "root/images").iterdir()} == {f"{piece}.bin", f"{piece}.npy"}
    assert not (tmp_path / "root/images.bin").exists()


def test_kinds_of_files_are_counted_and_the_odd_ones_named(run, class_folders, tmp_path):
    assert run().info["kinds"] == {"RGB": 20} and not run().info["notes"]
    for name, mode in (("a/x.png", "RGBA"), ("b/y.png", "P"), ("b/z.png", "I;16"), ("b/bad.png", None)):
        if mode:
            Image.new(mode, (8, 8), 3).save(class_folders / name)
        else:
            (class_folders / name).write_bytes(b"")
    manifest = run(allow_bad=1)
    assert manifest.info["kinds"] == {"RGB": 20, "RGBA": 1, "palette": 1, "16-bit grey": 1}
    assert manifest.info["notes"][0] == (
        "kinds of pictures: 20 RGB, 1 RGBA (a/x.png), 1 palette (b/y.png), 1 16-bit grey (b/z.png); "
        "made grey or RGB as docs/datasets.md says"
    )


def test_the_last_row_of_the_summary_counts_pictures(tmp_path, make_card, capsys):
    samples = [Sample(f"{n:02}", f"{n:02}", "a|b" if n % 2 else "a", f"{n:02}") for n in range(20)]
    layout = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label"}

    def read(sample):
        return np.random.default_rng(int(sample.id)).integers(0, 256, (16, 16), dtype=np.uint8)

    write_dataset(tmp_path / "root", make_card(layout, task="multilabel"), samples, read)
    last = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("  all"))
    assert sum(map(int, last.split()[1:])) == 20


def test_size_has_a_floor(run):
    with pytest.raises(RecipeError, match="size: got 8"):
        run(size=8)


# ---- reading it back ----


def test_what_is_read_back_is_what_was_written(run, tmp_path, make_card):
    written, read = run(), read_manifest(tmp_path / "root", make_card(FOLDERS))
    assert (written.ids, written.groups, written.sha256) == (read.ids, read.groups, read.sha256)
    for name in ("labels", "splits", "shapes", "offsets"):
        one, other = getattr(written, name), getattr(read, name)
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert read.info == json.loads(json.dumps(written.info))


def test_attributes_are_in_the_manifest(tmp_path, write_picture, make_card):
    rows = ["image,label,skin"]
    for number in range(10):
        write_picture(tmp_path / "source" / f"{number}.png", number)
        rows.append(f"{number}.png,{'ab'[number % 2]},{number % 6 + 1}")
    (tmp_path / "source/t.csv").write_text("\n".join(rows))
    layout = {"kind": "csv", "file": "t.csv", "image": "image", "label": "label", "attributes": {"skin_type": "skin"}}
    prepare(make_card(layout), tmp_path / "source", tmp_path / "root")
    rows = csv.DictReader((tmp_path / "root/manifest.csv").read_text().splitlines())
    assert [row["skin_type"] for row in rows] == [str(n % 6 + 1) for n in range(10)]


def test_odd_names_survive(run, class_folders, write_picture):
    for name in ('quote"comma,.png', "line\nbreak.png", "naïve #1.png", "NA.png"):
        write_picture(class_folders / "a" / name, len(name) + 500)
    manifest = run()
    assert {"a/line\nbreak.png", 'a/quote"comma,.png', "a/naïve #1.png", "a/NA.png"} < set(manifest.ids)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "no prepared dataset"),
        (lambda root: (root / "dataset.json").unlink(), "no prepared dataset"),
        (lambda root: (root / "dataset.json").write_text("{"), "no prepared dataset"),
        (lambda root: next(root.glob("images/*.bin")).unlink(), "damaged"),
        (lambda root: next(root.glob("images/*.bin")).write_bytes(b"x"), "got 1 bytes, wanted"),
        (lambda root: (root / "manifest.csv").write_text("id\n"), "damaged"),
        (lambda root: (root / "manifest.csv").write_text("id\nx\n"), "column 'file' is missing"),
        (lambda root: (root / "manifest.csv").write_text(""), "damaged"),
        (lambda root: _edit(root, ",test,", ",train,"), "rows are not those that prepare wrote"),
        (lambda root: _edit(root, ",a,", ",b,"), "rows are not those that prepare wrote"),
        (lambda root: _edit(root, ",1,24", ",2,24"), "rows are not those that prepare wrote"),
    ],
)
def test_a_damaged_dataset_is_refused_with_the_command(run, tmp_path, make_card, damage, message):
    run()
    damage(tmp_path / "root")
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path / "root", make_card(FOLDERS))
    assert message in caught.value.message
    assert caught.value.hint.startswith("run `medpeft prepare YOUR_CARD.yaml --source DIR")


def _edit(root, old, new):
    path = root / "manifest.csv"
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_dataset_of_another_card_is_refused(run, tmp_path, make_card):
    run()
    with pytest.raises(DataError, match="holds dataset 'mine', the recipe asks for 'yours'"):
        read_manifest(tmp_path / "root", make_card(FOLDERS, name="yours"))
    with pytest.raises(DataError, match="prepared from another version of card 'mine'"):
        read_manifest(tmp_path / "root", make_card(FOLDERS, classes=("b", "a")))
    with pytest.raises(DataError, match="another version"):
        read_manifest(tmp_path / "root", make_card(FOLDERS, split={"seed": 3}))
