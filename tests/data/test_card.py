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


def test_the_five_cards_load():
    assert card_names() == ["breastus", "fitzpatrick", "isic", "pneumonia", "smdg"]
    for name in card_names():
        card = load_card(name)
        assert card.name == name and card.citation and card.licence and card.url and card.notes


def test_example_cards_load(root):
    paths = sorted((root / "recipes/extra/cards").glob("*.yaml"))
    assert len(paths) == 6
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
