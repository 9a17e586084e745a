"""docs/datasets.md says what the cards say, and its examples of own data work as they stand."""

import re
import subprocess
import sys

import numpy as np
import pytest
from downloads import noise, write_dicom

from medpeft_cli.data.card import load_card
from medpeft_cli.data.document import dataset_reference
from medpeft_cli.data.prepare import prepare

EXAMPLES = {
    name: text
    for text, name in re.findall(r"```yaml\n((?:base: [^\n]*\n)?name: (\w+)\n.*?)```", dataset_reference(), re.S)
}


@pytest.fixture
def prepared(tmp_path, write_picture):
    """Prepare a source with a card of the page."""
    source = tmp_path / "source"
    source.mkdir()

    def go(name: str):
        card = tmp_path / f"{name}.yaml"
        card.write_text(EXAMPLES[name])
        return prepare(load_card(card), source, tmp_path / "data" / name)

    go.source = source
    go.write = lambda file, seed: write_picture(source / file, seed)
    return go


def left_out(manifest) -> dict[str, str]:
    return {item["file"]: item["reason"] for item in manifest.info["left_out"]}


def test_the_reference_is_up_to_date(root):
    text = (root / "docs/datasets.md").read_text()
    assert text == dataset_reference(), "run python -m medpeft_cli.data.document > docs/datasets.md"


def test_it_is_made_without_torch():
    code = "import sys, medpeft_cli.data.document as d; d.dataset_reference(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_kind_of_own_data_has_an_example():
    assert EXAMPLES.keys() == {
        "lesions",
        "ready",
        "chest",
        "findings",
        "pairs",
        "captions",
        "scans",
        "cancer",
        "mnist_like",
    }


def test_a_folder_per_class(prepared):
    for patient in range(12):
        for picture in (1, 2):
            name = ("benign", "malignant")[patient % 2]
            prepared.write(f"{name}/P{patient:04d}_{picture}.png", 10 * patient + picture)
    manifest = prepared("lesions")
    assert len(manifest.ids) == 24 and set(manifest.groups) == {f"P{patient:04d}" for patient in range(12)}
    splits = dict(zip(manifest.groups, manifest.splits, strict=True))
    assert all(splits[group] == split for group, split in zip(manifest.groups, manifest.splits, strict=True))


def test_ready_splits(prepared):
    for number in range(20):
        for place, split in enumerate(("Train", "Test")):
            for label in ("benign", "malignant"):
                prepared.write(f"{split}/{label}/{number}.png", 100 * place + 50 * (label == "benign") + number)
    manifest = prepared("ready")
    assert {name for name, split in zip(manifest.ids, manifest.splits, strict=True) if split == "test"} == {
        f"Test/{label}/{number}.png" for label in ("benign", "malignant") for number in range(20)
    }
    assert manifest.counts("val") == {"benign": 4, "malignant": 4}  # 0.15 / 0.85 of twenty, rounded


def test_a_table(prepared):
    rows = ["file;finding;patient;partition;age;sex"]
    for number in range(12):
        prepared.write(f"images/x{number}.png", number)
        partition = ("training", "validation", "testing")[number // 4]
        rows.append(f"x{number};{('0', '1', 'viral pneumonia')[number % 3]};p{number};{partition};{40 + number};F")
    prepared.write("images/y.png", 90)
    prepared.write("images/z.png", 91)
    rows += ["y;unclear;p90;training;30;M", "absent;0;p91;training;30;M"]
    (prepared.source / "labels.csv").write_text("\n".join(rows))
    manifest = prepared("chest")
    assert manifest.counts("train") == {"normal": 2, "pneumonia": 2}
    assert manifest.groups[manifest.ids.index("x3")] == "p3"
    assert set(left_out(manifest).values()) == {
        "label 'unclear' is ignored", "no such picture", "not named in labels.csv",
    }  # fmt: skip
    assert "43" in (manifest.root / "manifest.csv").read_text()


def test_several_classes_a_picture(prepared):
    rows = ["file,edema,effusion,patient"]
    for number in range(16):
        prepared.write(f"x{number}.png", number)
        rows.append(f"x{number}.png,{number % 2},{('-1', '', '1', '0')[number // 2 % 4]},p{number // 2}")
    (prepared.source / "labels.csv").write_text("\n".join(rows))
    manifest = prepared("findings")
    assert manifest.multilabels[manifest.ids.index("x5.png")].tolist() == [1, 1]
    assert manifest.multilabels.sum(axis=0).tolist() == [8, 4]


def test_pictures_and_texts(prepared):
    rows = ["file,report,patient"]
    for number in range(12):
        prepared.write(f"x{number}.png", number)
        rows.append(f"x{number}.png,FINDINGS: f. IMPRESSION: seen by ___ as {number}.,p{number}")
    (prepared.source / "reports.csv").write_text("\n".join(rows))
    manifest = prepared("pairs")
    assert sorted(manifest.texts)[0] == "seen as 0."
    assert manifest.info["texts"]["marks"] == 12 and manifest.info["texts"]["tokens"]["over_limit"] == 0
    assert any("12 de-identification marks (___) in 12 texts, removed" in note for note in manifest.info["notes"])


def test_pictures_with_text_files(prepared):
    for number in range(12):
        prepared.write(f"p{number // 2}_{number}.png", number)
        (prepared.source / f"p{number // 2}_{number}.txt").write_text(f"seen by ___ as {number}")
    manifest = prepared("captions")
    assert manifest.texts[manifest.ids.index("p1_3.png")] == "seen as 3"
    assert len(set(manifest.groups)) == 6


def test_dicom_files(prepared):
    for number in range(16):
        path = prepared.source / ("benign", "malignant")[number % 2] / f"IM{number}"
        write_dicom(path, noise(number), PatientID=f"P{number // 2}")
    assert set(prepared("scans").groups) == {f"P{number}" for number in range(8)}


def test_a_public_dataset_with_another_target(prepared):
    rows = ["md5hash,fitzpatrick_scale,label,nine_partition_label,three_partition_label,url"]
    for number in range(12):
        prepared.write(f"images/{number}.png", number)
        rows.append(f"{number},3,acne,inflammatory,{('benign', 'malignant', 'non-neoplastic')[number % 3]},")
    (prepared.source / "fitzpatrick17k.csv").write_text("\n".join(rows))
    manifest = prepared("cancer")
    assert sum(manifest.counts(split)["malignant"] for split in ("train", "val", "test")) == 4


def test_arrays(prepared):
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        arrays[f"{split}_images"] = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(prepared.source / "mnist_like.npz", **arrays)
    manifest = prepared("mnist_like")
    assert [manifest.counts(split)["pneumonia"] for split in ("train", "val", "test")] == [4, 2, 2]
