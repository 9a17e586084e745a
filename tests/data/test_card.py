import pytest

from medpeft_cli.data.card import card_names, load_card
from medpeft_cli.errors import RecipeError

GOOD = """\
name: mine
title: Mine
modality: X-ray
classes: [a, b]
layout: {kind: class_folders}
"""


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_our_cards_load():
    assert card_names() == [
        "breastus", "fitzpatrick", "fitzpatrick_114", "fitzpatrick_9way", "isic", "isic2018", "mimic_cxr", "pneumonia", "smdg",
    ]  # fmt: skip
    for name in card_names():
        card = load_card(name)
        assert card.name == name and card.citation and card.licence and card.url and card.notes
        assert card.files and card.steps and card.size


def test_fitzpatrick_has_114_conditions_in_three_groupings():
    assert [len(load_card(name).classes) for name in ("fitzpatrick", "fitzpatrick_9way", "fitzpatrick_114")] == [
        3,
        9,
        114,
    ]


def test_a_card_may_build_on_another(tmp_path):
    own = write(tmp_path, "base: fitzpatrick\nname: mine\nclasses: [x, malignant]\nlayout:\n"
                          "  labels: {benign: x, non-neoplastic: x}\n")  # fmt: skip
    card, base = load_card(own), load_card("fitzpatrick")
    assert (card.name, card.title, card.classes, card.expected) == ("mine", base.title, ("x", "malignant"), {})
    assert card.layout.file == base.layout.file and card.layout.labels == {"benign": "x", "non-neoplastic": "x"}
    (tmp_path / "second.yaml").write_text("base: mine.yaml\nname: second\nsplit: {seed: 5}\n")
    assert load_card(tmp_path / "second.yaml").layout == card.layout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: mine.yaml\nname: mine\n", "mine.yaml:1:7: base: goes round in a circle"),
        ("base: fitzpatrik\nname: mine\n", "unknown dataset card 'fitzpatrik'"),
        ("base: isic\n", "name: got nothing, wanted text"),
    ],
)
def test_a_wrong_base_is_refused(tmp_path, text, message):
    with pytest.raises(RecipeError) as caught:
        load_card(write(tmp_path, text))
    assert message in caught.value.message


def test_defaults_are_no_part_of_the_hash(tmp_path):
    """A field that is new to medpeft, with a default that changes nothing, must not orphan prepared datasets."""
    card = load_card(write(tmp_path, GOOD))
    spelt = (
        GOOD.replace("class_folders}", "class_folders, group_tag: null, labels: {}}")
        + "task: classify\nalternatives: []\n"
    )
    assert load_card(write(tmp_path, spelt)).sha256 == card.sha256


def test_the_hash_of_a_card_is_pinned(tmp_path):
    """Prepared datasets are refused when it changes."""
    assert load_card(write(tmp_path, GOOD)).sha256[:16] == "c6f2dcb825e50f9e"


def test_example_cards_load(root):
    paths = sorted((root / "recipes/extra/cards").glob("*.yaml"))
    assert len(paths) == 7
    assert [load_card(path).name for path in paths] == [path.stem for path in paths]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="unknown dataset card 'issic'") as caught:
        load_card("issic")
    assert "did you mean 'isic'?" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "titel: Mine", "mine.yaml:2:1: titel: no such field, got 'titel', did you mean 'title'?"),
        ("[a, b]", "[a, a]", "the same class twice"),
        ("[a, b]", "[a]", "mine.yaml:4:10: classes"),
        ("class_folders}", "class_folder}", "layout.kind: got 'class_folder', did you mean 'class_folders'?"),
        ("class_folders}", "csv, file: x.csv, image: i}", "layout.label: got nothing, wanted text"),
        ("class_folders}", "class_folders, group_pattern: 'x'}", "group_pattern must hold exactly one"),
        ("class_folders}", "class_folders, mask_pattern: '('}", "not a regular expression"),
        ("class_folders}", "class_folders, labels: {x: c}}", "leads to 'c', which is not among the classes"),
        ("class_folders}", "class_folders}\nsplit: {rule: official}", "the layout names no split"),
        ("class_folders}", "class_folders}\nsplit: {fractions: [0.5, 0.5, 0.5]}", "sum 1"),
        ("class_folders}", "class_folders}\nexpected: {c: 3}", "'c' is not a class"),
        ("class_folders}", "class_folders, folder: ../x}", "paths of a card lie below --source"),
        ("class_folders}", "class_folders, splits: {train: /x}}", "paths of a card lie below --source"),
        ("class_folders}", "csv, file: 'C:\\x.csv', image: i, label: l}", "paths of a card lie below --source"),
        ("class_folders}", "csv, image: i, label: l}", "give file, or files with a table a split"),
        ("class_folders}", "csv, file: x, image: i, label: l, label_columns: [a]}", "give label or label_columns"),
        ("class_folders}", "csv, file: x, image: i, label: l}\ntask: text", "the layout names no text column"),
        ("class_folders}", "class_folders}\ntask: multilabel", "gives each picture one class"),
        ("class_folders}", "mimic_cxr}", "a report has any number of classes"),
        ("class_folders}", "text_files}", "layout.kind text_files gives texts; wanted task: text and no classes"),
        ("class_folders}", "text_files}\ntask: text", "layout.kind text_files gives texts; wanted task: text and no"),
        ("[a, b]", "['a|b', c]\ntask: multilabel", "'a|b' holds |, which joins"),
        (
            "class_folders}",
            "csv, file: x.csv, image: i, label: l, attributes: {label: l}}",
            "the manifest has columns of that name",
        ),
    ],
)
def test_a_wrong_card_is_refused_with_the_place(tmp_path, old, new, message):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_card(path)
    assert message in caught.value.message
    assert "mine.yaml" in caught.value.message


def test_a_missing_card_file_is_said(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        load_card(tmp_path / "none.yaml")


def test_the_hash_follows_what_decides_the_data_and_not_the_words(tmp_path):
    card = load_card(write(tmp_path, GOOD))
    assert load_card(write(tmp_path, GOOD + "notes: new words\n")).sha256 == card.sha256
    assert load_card(write(tmp_path, GOOD + "split: {seed: 1}\n")).sha256 != card.sha256
    assert load_card(write(tmp_path, GOOD.replace("[a, b]", "[b, a]"))).sha256 != card.sha256
