import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from medpeft_cli.data.checks import unexpected
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.leaks import leak_choice
from medpeft_cli.data.prepare import prepare, write_dataset
from medpeft_cli.errors import DataError, RecipeError

FOLDERS = {"kind": "class_folders"}
OFFICIAL = {**FOLDERS, "splits": {"train": "Train", "val": "Val", "test": "Test"}, "group_pattern": r"^(\d+)_"}


def blobs(seed: int, side: int = 128) -> np.ndarray:
    """A picture with structure at every scale, as real ones have."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).resize((side, side)) for n in (5, 9, 17, 33)
    ]
    return np.mean([np.asarray(layer, dtype=float) for layer in layers], axis=0).astype(np.uint8)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def source(tmp_path):
    """An official split of 8 pictures a split, in two classes."""
    for number, split in enumerate(["Train"] * 8 + ["Val"] * 8 + ["Test"] * 8):
        path = tmp_path / "source" / split / "ab"[number % 2] / f"{number:03}_x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blobs(number)).save(path)
    return tmp_path / "source"


@pytest.fixture
def run(source, tmp_path, make_card):
    def go(on_leak=None, **options):
        card = make_card(OFFICIAL, split={"group": "patient"})
        return prepare(card, source, tmp_path / "root", on_leak=on_leak, **options)

    return go


def splits_of(manifest):
    return dict(zip(manifest.ids, map(str, manifest.splits), strict=True))


def leak_of(source, kind):
    """Put a copy of a test picture, or another picture of its patient, into train."""
    picture = Image.fromarray(blobs(16))
    if kind == "patient":
        Image.fromarray(blobs(99)).save(source / "Train/a/016_y.png")
        return "Train/a/016_y.png"
    name = "Train/a/099_x.png"
    if kind == "pixels":
        picture.save(source / name)
    else:
        picture.resize((96, 96), Image.Resampling.BICUBIC).save((source / name).with_suffix(".jpg"), quality=80)
    return name if kind == "pixels" else "Train/a/099_x.jpg"


@pytest.mark.parametrize("kind", ["patient", "pixels", "near"])
def test_a_leak_of_an_official_split_is_an_error_that_names_it(run, source, tmp_path, kind):
    name = leak_of(source, kind)
    with pytest.raises(DataError, match="1 picture of the official split also in a more protected one") as caught:
        run()
    assert f"{name} (train) and Test/a/016_x.png (test)" in caught.value.message
    assert "--on-leak drop" in caught.value.hint and caught.value.exit_code == 3
    assert not (tmp_path / "root/dataset.json").exists()
    (row,) = table(tmp_path / "root/leaks.csv")
    assert (row["kind"], row["file"], row["split"], row["other_file"]) == (kind, name, "train", "Test/a/016_x.png")


@pytest.mark.parametrize("kind", ["patient", "pixels", "near"])
def test_what_was_decided_about_a_leak_is_done_and_recorded(run, source, tmp_path, kind):
    name = leak_of(source, kind)
    dropped = run("drop")
    assert name not in dropped.ids and len(dropped.ids) == 24
    reason = {"patient": "same patient in test", "pixels": "same pixels in test", "near": "near-duplicate in test"}[
        kind
    ]
    assert dropped.info["left_out"] == [{"file": name, "reason": reason}]
    moved = run("move")
    assert splits_of(moved)[name] == "test" and sum(moved.counts("test").values()) == 9
    allowed = run("allow")
    assert splits_of(allowed)[name] == "train"
    assert allowed.info["leakage"] == {"decision": "allow", "pictures": 1, "kinds": {kind: 1}}
    assert table(tmp_path / "root/leaks.csv")[0]["file"] == name


def test_test_is_protected_before_val_before_train(run, source):
    for split in ("Train", "Val"):
        shutil.copy(source / "Test/b/017_x.png", source / split / "b/099_x.png")
    shutil.copy(source / "Val/b/009_x.png", source / "Train/b/098_x.png")
    assert set(splits_of(run("drop"))) & {"Train/b/099_x.png", "Val/b/099_x.png", "Train/b/098_x.png"} == set()
    moved = splits_of(run("move"))
    assert [moved[name] for name in ("Train/b/099_x.png", "Val/b/099_x.png", "Train/b/098_x.png")] == [
        "test",
        "test",
        "val",
    ]


def test_a_clean_official_split_needs_no_decision(run, tmp_path):
    manifest = run()
    assert manifest.info["leakage"] == {"decision": None, "pictures": 0, "kinds": {}}
    assert not (tmp_path / "root/leaks.csv").exists()


def test_a_decision_removes_the_list_of_the_error(run, source, tmp_path):
    name = leak_of(source, "pixels")
    with pytest.raises(DataError):
        run()
    (source / name).unlink()
    run()
    assert not (tmp_path / "root/leaks.csv").exists()


def test_what_is_allowed_in_an_official_split_does_not_straddle_the_val_that_is_drawn_from_train(
    source, tmp_path, make_card
):
    for number in range(90, 102):
        shutil.copy(source / "Train/a/000_x.png", source / f"Train/a/{number:03}_x.png")
    shutil.copy(source / "Test/b/017_x.png", source / "Train/b/099_x.png")
    official = {**FOLDERS, "splits": {"train": "Train", "test": "Test"}}
    manifest = prepare(make_card(official), source, tmp_path / "root", on_leak="allow")
    split = splits_of(manifest)
    assert len({split[name] for name in manifest.ids if name == "Train/a/000_x.png" or "/a/09" in name}) == 1
    assert manifest.info["leakage"]["kinds"] == {"pixels": 1}  # the one that the source has


def test_a_near_duplicate_that_is_allowed_into_the_val_that_is_drawn_is_counted(source, tmp_path, make_card):
    official = {**FOLDERS, "splits": {"train": "Train", "test": "Test"}}
    for number in range(8):
        changed = Image.fromarray((blobs(number) // 2 + 40).astype(np.uint8))
        changed.save(source / f"Train/{'ab'[number % 2]}/{number:03}_y.png")
    manifest = prepare(make_card(official), source, tmp_path / "root", on_leak="allow")
    split = splits_of(manifest)
    names = [f"Train/{'ab'[number % 2]}/{number:03}" for number in range(8)]
    straddling = sum(split[f"{name}_x.png"] != split[f"{name}_y.png"] for name in names)
    assert manifest.info["leakage"]["kinds"] == {"near": straddling} and straddling > 0


def test_a_mate_of_a_copied_picture_leaks_by_its_patient_and_not_by_its_pixels(run, source, tmp_path):
    """016_x is in Test; its copy in Train belongs to patient 000, whose other picture therefore leaks, too."""
    shutil.copy(source / "Test/a/016_x.png", source / "Train/a/000_y.png")
    with pytest.raises(DataError, match="1 same patient, 1 same pixels"):
        run()
    assert [(row["file"], row["kind"]) for row in table(tmp_path / "root/leaks.csv")] == [
        ("Train/a/000_x.png", "patient"), ("Train/a/000_y.png", "pixels"),
    ]  # fmt: skip


def test_near_duplicates_share_a_split_of_our_own_unless_allowed(tmp_path, make_card):
    def read(sample):
        pixels = blobs(int(sample.id[:2]))
        return pixels if sample.id.endswith("a") else (pixels // 2 + 40).astype(np.uint8)  # less contrast, brighter

    samples = [Sample(f"{n:02}{twin}", f"{n:02}{twin}", "xy"[n % 2], f"{n}{twin}") for n in range(20) for twin in "ab"]
    card = make_card(FOLDERS, classes=("x", "y"))
    manifest = write_dataset(tmp_path / "one", card, samples, read)
    assert manifest.info["duplicates"]["near"] == 20
    split = splits_of(manifest)
    assert all(split[f"{n:02}a"] == split[f"{n:02}b"] for n in range(20))
    assert len(set(manifest.groups)) == 20
    assert len(table(tmp_path / "one/duplicates.csv")) == 20
    allowed = write_dataset(tmp_path / "two", card, samples, read, on_leak="allow")
    assert len(set(allowed.groups)) == 40
    split = splits_of(allowed)
    straddling = sum(split[f"{n:02}a"] != split[f"{n:02}b"] for n in range(20))
    assert allowed.info["leakage"]["kinds"] == {"near": straddling} and straddling > 0


def test_a_class_that_is_one_picture_many_times_is_named_with_the_way_out(tmp_path, make_card):
    def read(sample):
        number = int(sample.id[1:])
        return np.clip(blobs(0) + number, 0, 255).astype(np.uint8) if sample.label == "x" else blobs(number + 1)

    samples = [Sample(f"{label}{n}", f"{label}{n}", label, f"{label}{n}") for label in "xy" for n in range(5)]
    card = make_card(FOLDERS, classes=("x", "y"))
    with pytest.raises(DataError, match="class 'x': 1 image with 5 pictures, wanted 3 at least") as caught:
        write_dataset(tmp_path / "root", card, samples, read)
    assert "--on-leak allow" in caught.value.hint


def test_expected_numbers_are_compared_per_class_and_official_split(make_card):
    samples = [Sample(str(n), str(n), "ab"[n % 2], str(n), "train" if n else "test") for n in range(6)]
    card = make_card(OFFICIAL, expected={"images": 6, "a": 4, "train": 6, "test": 1})
    assert unexpected(samples, card) == [
        "3 pictures of class 'a', card 'mine' expects 4",
        "5 pictures in train, card 'mine' expects 6",
    ]


def test_another_decision_is_answered_with_the_known_ones():
    assert leak_choice(None) is None and leak_choice("move") == "move"
    with pytest.raises(RecipeError) as caught:
        leak_choice("drap")
    assert "did you mean 'drop'" in caught.value.hint
