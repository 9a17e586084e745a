import dataclasses

import numpy as np
import pytest

from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.manifest import dataset_sha256, read_manifest
from medpeft_cli.data.prepare import write_dataset
from medpeft_cli.errors import DataError

FOLDERS = {"kind": "class_folders"}
TABLE = {"kind": "csv", "file": "t.csv", "image": "image"}


def draw(sample):
    return np.random.default_rng(int(sample.id[1:])).integers(0, 256, (16, 16), dtype=np.uint8)


@pytest.fixture
def manifest(tmp_path, make_card):
    """200 pictures of a, 40 of b, 10 of c."""
    labels = "a" * 200 + "b" * 40 + "c" * 10
    samples = [Sample(f"i{n:03}", f"i{n:03}", label, f"i{n:03}") for n, label in enumerate(labels)]
    return write_dataset(tmp_path / "root", make_card(FOLDERS, classes=("a", "b", "c")), samples, draw)


FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)


def test_subsets_are_nested_stratified_and_never_without_a_class(manifest):
    subsets = [set(manifest.training_subset(fraction, None).tolist()) for fraction in FRACTIONS]
    assert all(small < large for small, large in zip(subsets, subsets[1:], strict=False))
    train = manifest.counts("train")
    assert [train[name] for name in "abc"] == [140, 28, 7]
    for fraction, subset in zip(FRACTIONS, subsets, strict=True):
        counts = np.bincount(manifest.labels[sorted(subset)], minlength=3).tolist()
        assert counts == [max(1, round(fraction * train[name])) for name in "abc"]
    assert manifest.info["subsets"] == {f"{f:g}": len(s) for f, s in zip(FRACTIONS, subsets, strict=True)}
    assert np.array_equal(manifest.training_subset(1.0, None), manifest.indices("train"))


def test_k_shot_takes_k_of_each_class_and_is_nested(manifest):
    two, five = (manifest.training_subset(1.0, k) for k in (2, 5))
    assert np.bincount(manifest.labels[five]).tolist() == [5, 5, 5]
    assert set(two) < set(five) < set(manifest.indices("train")) and five.tolist() == sorted(five)
    with pytest.raises(DataError, match="data.k_shot: got 8, class 'c' has 7 training pictures"):
        manifest.training_subset(1.0, 8)


def test_ranks_are_of_the_training_split_alone(manifest):
    assert set(manifest.ranks[manifest.splits == "train"]) == set(range(1, 141))
    assert not manifest.ranks[manifest.splits != "train"].any()


def test_the_hash_covers_ids_labels_splits_groups_pixels_ranks_and_texts():
    columns = {name: ["1", "2"] for name in ("id", "label", "split", "group", "pixels", "rank", "text")}
    hashes = {dataset_sha256(("a",), columns)}
    for name in columns:
        hashes.add(dataset_sha256(("a",), columns | {name: ["1", "3"]}))
        hashes.add(dataset_sha256(("a",), {other: cells for other, cells in columns.items() if other != name}))
    hashes.add(dataset_sha256(("b",), columns))
    assert len(hashes) == 1 + 2 * len(columns) + 1
    assert dataset_sha256(("a",), columns | {"age": ["4", "5"]}) in hashes


def test_texts_are_kept_as_they_are_and_under_the_hash(tmp_path, make_card):
    texts = ["no acute findings", 'a "quote", a comma', "two\nlines", "", "naïve"] * 2
    card = make_card({**TABLE, "text": "report"}, task="text", classes=())
    samples = [Sample(f"i{n}", f"i{n}", "", f"i{n}", text=text) for n, text in enumerate(texts)]
    written = write_dataset(tmp_path / "root", card, samples, draw)
    read = read_manifest(tmp_path / "root", card)
    assert read.texts == written.texts == texts
    assert read.classes == () and read.multilabels is None and set(read.labels) == {-1}
    assert [len(read.indices(split)) for split in ("train", "val", "test")] == [7, 2, 1]
    assert len(read.training_subset(0.5, None)) == 4
    samples[3] = dataclasses.replace(samples[3], text="something")
    assert write_dataset(tmp_path / "other", card, samples, draw).sha256 != read.sha256


def test_a_dataset_of_texts_has_no_classes_to_count(tmp_path, make_card):
    card = make_card({"kind": "csv", "file": "t.csv", "image": "image", "text": "text"}, task="text", classes=())
    samples = [Sample(f"i{n:02}", f"i{n:02}", "", f"i{n:02}", text=f"text {n}") for n in range(20)]
    assert write_dataset(tmp_path / "root", card, samples, draw).counts("train") == {}


def test_a_dataset_without_texts_has_none(manifest, tmp_path):
    assert manifest.texts is None
    assert "text" not in (tmp_path / "root/manifest.csv").read_text().splitlines()[0]


def test_pictures_of_several_classes_are_stratified_by_the_rarest(tmp_path, make_card):
    labels = ["a"] * 30 + ["a|b"] * 12 + ["a|b|c"] * 6 + [""] * 12
    card = make_card({**TABLE, "label": "label"}, task="multilabel", classes=("a", "b", "c"))
    samples = [Sample(f"i{n:02}", f"i{n:02}", label, f"i{n:02}") for n, label in enumerate(labels)]
    written = write_dataset(tmp_path / "root", card, samples, draw)
    read = read_manifest(tmp_path / "root", card)
    assert read.multilabels.dtype == np.uint8
    assert read.multilabels[[0, 30, 42, 48]].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert np.array_equal(read.multilabels, written.multilabels) and np.array_equal(read.strata, written.strata)
    assert set(read.labels) == {-1} and read.counts("train") == read.info["counts"]["train"]
    for split, share in zip(("train", "val", "test"), (0.7, 0.15, 0.15), strict=True):
        mine = read.multilabels[read.splits == split]
        assert np.abs(mine.sum(axis=0) - share * np.array([48, 18, 6])).max() <= 2
        assert mine[:, 2].sum() >= 1
    assert read.info["counts"]["train"]["a"] == int(read.multilabels[read.splits == "train", 0].sum())
    assert len(read.training_subset(1.0, 2)) == 2 * len(set(read.strata.tolist()))
