"""YAML in, plain values and their places out."""

import math

import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.source import Place, dump_values, parse_document, read_document


def value_of(text):
    return parse_document(f"x: {text}", "r.yaml").values["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("12", 12),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf-hub:timm/vit", "hf-hub:timm/vit"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
    ],
)
def test_scalars_follow_yaml_1_2(text, expected):
    got = value_of(text)
    assert got == expected
    assert type(got) is type(expected)


def test_infinity_and_nan_are_numbers():
    assert value_of("-.inf") == -math.inf
    assert math.isnan(value_of(".NaN"))


def test_every_key_and_value_has_its_place():
    document = parse_document("a: 1\nb:\n  c: [5, 6]\n", "r.yaml")
    assert document.keys[("b", "c")] == Place("r.yaml", 3, 3)
    assert document.places[("b", "c")] == Place("r.yaml", 3, 6)
    assert document.places[("b", "c", 1)] == Place("r.yaml", 3, 10)


def test_a_field_written_twice_is_a_problem_and_the_first_one_counts():
    document = parse_document("a: 1\nb: {c: 1, c: 2}\na: 3\n", "r.yaml")
    assert document.values == {"a": 1, "b": {"c": 1}}
    assert [str(p) for p in document.problems] == [
        "r.yaml:2:11: b.c: written twice, first at r.yaml:2:5",
        "r.yaml:3:1: a: written twice, first at r.yaml:1:1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: got nothing"),
        ("- 1", "r.yaml: got a list"),
        ("hello", "r.yaml: got a single value"),
        ("a: b: c", "r.yaml:1:5: not YAML"),
        ("a: [1", "r.yaml:1:6: not YAML"),
        ("a: 1\n---\nb: 2", "r.yaml:2:1: not YAML"),
        ("a: &x 1\nb: *x", "r.yaml:1:4: not YAML, anchors"),
        ("a: !!python/object/apply:os.getcwd []", "r.yaml:1:4: not YAML, anchors"),
        ("a: 1\nb: \x00", "r.yaml:2:4: not YAML text"),
        ("a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_map_is_refused_with_its_place(text, message):
    with pytest.raises(RecipeError) as error:
        parse_document(text, "r.yaml")
    assert message in error.value.message
    assert "\n" not in error.value.message


def test_tabs_get_a_hint_of_their_own():
    with pytest.raises(RecipeError) as error:
        parse_document("a:\n\tb: 1", "r.yaml")
    assert error.value.message.startswith("r.yaml:2:1: ")
    assert "spaces" in error.value.hint


@pytest.mark.parametrize("text", ["1" * 5000, r'"\ud800"'])
def test_a_value_that_cannot_be_read_is_a_problem(text):
    document = parse_document(f"a: {text}", "r.yaml")
    assert [p.place for p in document.problems] == [Place("r.yaml", 1, 4)]


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "weights.yaml").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(RecipeError, match="not a text file, byte 0"):
        read_document(tmp_path / "weights.yaml")
    with pytest.raises(RecipeError, match="is a directory"):
        read_document(tmp_path)


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(tmp_path / "r.yaml").values == {"a": 1}


def test_text_that_looks_like_something_else_survives_dumping():
    values = {"a": ["no", "1e-3", "007", "1:30", "true", "", "null", "2020-01-01", "ä: #", 1e-5, 1e20, None, {}]}
    assert parse_document(dump_values(values), "r.yaml").values == values
