"""What prepare says before there are pictures."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from downloads import write_mimic

from medpeft_cli.data.card import card_names, load_card
from medpeft_cli.data.guide import expected_files, facts, file_list, guide
from medpeft_cli.data.layouts import list_source
from medpeft_cli.errors import DataError, RecipeError


@pytest.mark.parametrize("name", card_names())
def test_the_guide_says_licence_access_files_and_the_command(name):
    card, text = load_card(name), guide(load_card(name), name)
    assert card.licence in text and card.url in text and all(step in text for step in card.steps)
    assert all(f"DIR/{file}" in text for file in card.files)
    assert text.endswith(f"medpeft prepare {name} --source DIR")
    assert facts(card)["files"] == card.files


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ({"kind": "class_folders", "folder": "x", "splits": {"train": "T"}, "labels": {"A": "a"}}, ["x/T/A/", "x/T/b/"]),
        ({"kind": "csv", "file": "t.csv", "image": "i", "label": "l", "group": "g", "group_file": "g.csv", "folders": ["p"]},
         ["t.csv", "g.csv", "p/"]),
        ({"kind": "npz", "file": "x.npz"}, ["x.npz"]),
    ],
)  # fmt: skip
def test_an_own_card_without_a_list_is_read_from_its_layout(make_card, layout, files):
    assert list(expected_files(make_card(layout))) == files


def lines(card, source, views=None, splits=None, fraction=1.0):
    return file_list(load_card(card), source, views, splits, fraction)


def test_mimic_files_are_those_that_prepare_takes(tmp_path):
    whole = list_source(load_card("mimic_cxr"), write_mimic(tmp_path / "whole"))
    bare = write_mimic(tmp_path / "bare", pictures=False)
    assert lines("mimic_cxr", bare) == [sample.file for sample in whole.samples]
    assert lines("mimic_cxr", bare, splits="val,test") == [s.file for s in whole.samples if s.split == "val"]
    lateral = lines("mimic_cxr", bare, views="LATERAL")
    assert len(lateral) == 3 and not set(lateral) & set(lines("mimic_cxr", bare))


def test_a_fraction_of_mimic_is_the_one_that_a_recipe_takes(tmp_path, monkeypatch, write_picture):
    """The list for fraction f names the training pictures of data.fraction f, and all of val and test."""
    import downloads

    from medpeft_cli.data.prepare import prepare

    studies = {f"1{n:07}": [f"5{n:07}"] for n in range(24)}
    monkeypatch.setattr(downloads, "STUDIES", studies)
    monkeypatch.setattr(
        downloads, "SPLITS", {s: ("train", "train", "validate", "test")[i % 4] for i, s in enumerate(studies)}
    )
    monkeypatch.setattr(downloads, "REPORTS", {s[0]: f"IMPRESSION: report {s[0]}" for s in studies.values()})
    source, card = write_mimic(tmp_path / "source"), load_card("mimic_cxr")
    manifest = prepare(card, source, tmp_path / "root")
    assert Counter(manifest.splits.tolist()) == {"train": 12, "val": 6, "test": 6}
    for fraction, count in ((0.25, 3), (0.5, 6)):
        names = [line.rpartition("/")[2].removesuffix(".jpg") for line in lines("mimic_cxr", source, fraction=fraction)]
        used = {manifest.ids[i] for i in manifest.training_subset(fraction, None)}
        kept = {name for name, split in zip(manifest.ids, manifest.splits, strict=True) if split != "train"}
        assert len(used) == count and set(names) == used | kept
    assert manifest.info["texts"]["sections"] == {"impression": 24}
    assert manifest.info["texts"]["tokens"]["over_limit"] == 0
    assert manifest.texts[0].startswith("report 5")


def test_addresses_of_fitzpatrick_with_the_file_they_belong_to(tmp_path):
    (tmp_path / "fitzpatrick17k.csv").write_text(
        "md5hash,fitzpatrick_scale,label,nine_partition_label,three_partition_label,url\n"
        "abc,3,acne,inflammatory,non-neoplastic,http://x/a.jpg\n"
        "def,3,acne,inflammatory,non-neoplastic,\n"
        "ghi,3,acne,inflammatory,non-neoplastic,file:///etc/passwd\n"
    )
    assert lines("fitzpatrick", tmp_path) == ["http://x/a.jpg\timages/abc.jpg"]
    (tmp_path / "fitzpatrick17k.csv").write_text(
        "md5hash,fitzpatrick_scale,label,nine_partition_label,three_partition_label,url\n"
        "../../abc,3,acne,inflammatory,non-neoplastic,http://x/a.jpg\n"
    )
    with pytest.raises(DataError, match="fitzpatrick17k.csv:2: '../../abc' leads out"):
        lines("fitzpatrick", tmp_path)


def test_rsna_files_are_listed_once(tmp_path):
    (tmp_path / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\np1,,,,,0\np2,1,1,1,1,1\np2,2,2,2,2,1\n"
    )
    assert lines("pneumonia", tmp_path) == ["stage_2_train_images/p1.dcm", "stage_2_train_images/p2.dcm"]


@pytest.mark.parametrize(
    ("card", "options", "message"),
    [
        ("mimic_cxr", {"splits": "dev"}, "--splits: got 'dev', wanted some of train, val, test"),
        ("mimic_cxr", {"fraction": 0.0}, "--fraction: got 0, wanted a number above 0"),
        ("pneumonia", {"splits": "val"}, "--splits: RSNA Pneumonia has no official split"),
        ("pneumonia", {"fraction": 0.1}, "--fraction: RSNA Pneumonia has no official split"),
        ("pneumonia", {"views": "PA"}, "--views: RSNA Pneumonia has no views"),
        ("breastus", {}, "--list-files: BUSI has no table; all its pictures are needed"),
    ],
)
def test_what_cannot_be_chosen_is_said(tmp_path, card, options, message):
    (tmp_path / "stage_2_train_labels.csv").write_text("patientId,Target\np1,0\n")
    with pytest.raises(RecipeError) as caught:
        lines(card, tmp_path, **options)
    assert message in caught.value.message


def test_a_choice_without_a_picture_is_said(tmp_path):
    with pytest.raises(
        DataError, match="--list-files: no picture of MIMIC-CXR is needed with views LATERAL, splits test"
    ):
        lines("mimic_cxr", write_mimic(tmp_path), views="LATERAL", splits="test")


def test_an_own_card_is_named_as_it_is_given(class_folders, make_card):
    card = make_card({"kind": "class_folders"})
    with pytest.raises(RecipeError, match="--list-files: Mine has no table; all its pictures are needed") as caught:
        file_list(card, class_folders, None, None, 1.0)
    assert caught.value.hint == "`medpeft prepare YOUR_CARD.yaml` says where they lie"
    with pytest.raises(RecipeError) as caught:
        file_list(card, None, None, None, 1.0)
    assert "`medpeft prepare YOUR_CARD.yaml`" in caught.value.hint


def test_a_missing_source_is_said(tmp_path):
    with pytest.raises(RecipeError, match="no source given"):
        lines("mimic_cxr", None)
    with pytest.raises(DataError, match="no such folder"):
        lines("mimic_cxr", tmp_path / "none")


def command(*words):
    code = f"import sys; sys.argv[1:] = {list(words)!r}\nfrom medpeft_cli.cli import main\ntry: main()\n" \
        "finally: print({'torch', 'numpy'} & set(sys.modules), file=sys.stderr)"  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_prepare_without_a_source_is_the_guide_and_imports_nothing_heavy():
    done = command("prepare", "mimic_cxr")
    assert done.returncode == 0 and done.stdout == guide(load_card("mimic_cxr"), "mimic_cxr") + "\n"
    assert done.stderr == "set()\n"
    assert json.loads(command("prepare", "mimic_cxr", "--json").stdout)["access"] == "credentialed"


def test_prepare_prints_the_list_and_nothing_else(tmp_path):
    source = write_mimic(tmp_path, pictures=False)
    done = command("prepare", "mimic_cxr", "--source", str(source), "--list-files", "--splits", "val")
    assert re.fullmatch(r"files/p10/p10000002/s50000003/[\w-]+\.jpg\n", done.stdout)


def test_prepare_prints_or_writes_a_draft(class_folders, tmp_path):
    printed = command("prepare", "--init-card", str(class_folders))
    assert printed.stdout.startswith("# drafted by") and "class folders: a 10, b 10" in printed.stderr
    written = command("prepare", str(tmp_path / "x.yaml"), "--init-card", str(class_folders))
    assert written.stdout == f"{tmp_path / 'x.yaml'}\n" and load_card(tmp_path / "x.yaml").classes == ("a", "b")


@pytest.mark.parametrize("words", [["--source"], ["--list-files", "--source"], ["--init-card"]])
def test_a_source_that_the_system_refuses_to_read_is_said(tmp_path, words):
    done = command("prepare", *([] if "--init-card" in words else ["pneumonia"]), *words, str(tmp_path / ("x" * 300)))
    assert done.returncode == 3 and done.stderr.startswith(f"error: {tmp_path}")
    assert "cannot be read, file name too long" in done.stderr


def test_prepare_without_a_card_says_what_there_is():
    done = command("prepare")
    assert done.returncode == 2 and "no card given" in done.stderr
