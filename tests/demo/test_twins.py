import hashlib
import json

import numpy as np
import pytest

from medpeft_cli.data.card import load_card, names_of
from medpeft_cli.data.images import ImageStore
from medpeft_cli.demo import radiographs, twins
from medpeft_cli.errors import DataError, RecipeError


@pytest.fixture
def small_twin(monkeypatch):
    """The ultrasound twin with a few pictures, quick to make."""
    twin = twins.Twin(twins.TWINS["breastus"].draw, {"benign": 16, "malignant": 12, "normal": 12})
    monkeypatch.setitem(twins.TWINS, "breastus", twin)


def digest(card, entries):
    return {e.number: hashlib.sha256(twins.draw(card, e).tobytes()).hexdigest() for e in entries}


@pytest.mark.parametrize("card", twins.TWINS)
def test_classes_and_their_balance_are_the_cards(card):
    counts, expected = twins.TWINS[card].counts, load_card(card).expected
    found = {name for label in counts for name in names_of(label, load_card(card).task)}
    assert found == set(load_card(card).classes) - {  # too small for 64 pixels
        "Consolidation", "Enlarged Cardiomediastinum", "Fracture", "Pleural Other",
    }  # fmt: skip
    for name in set(expected) & set(counts) - {"df", "vasc"}:  # these two are lifted
        assert counts[name] / sum(counts.values()) == pytest.approx(expected[name] / expected["images"], abs=0.05)


@pytest.mark.parametrize("card", twins.TWINS)
def test_a_picture_depends_on_its_card_and_number_alone(card):
    sample = list(twins.entries(card))[::97][:6]
    forwards, backwards = digest(card, sample), digest(card, reversed(sample))
    assert forwards == backwards
    assert len(set(forwards.values())) == len(sample)


@pytest.mark.parametrize("card", twins.TWINS)
def test_a_patient_has_one_class_and_at_most_three_pictures(card):
    entries = list(twins.entries(card))
    assert [e.number for e in entries] == list(range(len(entries)))
    patients = {}
    for entry in entries:
        patients.setdefault(entry.group, []).append(entry.label)
    assert {len(labels) for labels in patients.values()} == {1, 2, 3}
    assert all(len(set(labels)) == 1 for labels in patients.values())


def test_the_twin_is_made_once_and_holds_what_is_drawn(small_twin, tmp_path):
    manifest = twins.ensure_twin("breastus", tmp_path / "breastus")
    written = (tmp_path / "breastus/dataset.json").stat().st_mtime_ns
    again = twins.ensure_twin("breastus", tmp_path / "breastus")
    assert again.sha256 == manifest.sha256
    assert (tmp_path / "breastus/dataset.json").stat().st_mtime_ns == written
    entry = list(twins.entries("breastus"))[20]
    stored = ImageStore(manifest)[manifest.ids.index(f"breastus_{entry.number:05d}")]
    np.testing.assert_array_equal(stored[..., 0], twins.draw("breastus", entry))


def test_two_folders_get_the_same_bytes(small_twin, tmp_path):
    first, second = (twins.ensure_twin("breastus", tmp_path / name) for name in ("one", "two"))
    assert first.sha256 == second.sha256
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "images").iterdir()} for name in ("one", "two")
    )
    assert one == two


def test_a_twin_of_another_revision_is_made_again(small_twin, tmp_path, monkeypatch):
    monkeypatch.setattr(twins, "REVISION", twins.REVISION - 1)
    twins.ensure_twin("breastus", tmp_path / "breastus")
    monkeypatch.undo()
    monkeypatch.setitem(
        twins.TWINS, "breastus", twins.Twin(twins.TWINS["breastus"].draw, {"benign": 9, "malignant": 9, "normal": 9})
    )
    manifest = twins.ensure_twin("breastus", tmp_path / "breastus")
    assert len(manifest.ids) == 27
    assert manifest.info["twin"] == twins.REVISION


def test_real_data_is_never_replaced_by_a_twin(small_twin, tmp_path):
    twins.ensure_twin("breastus", tmp_path)
    info = json.loads((tmp_path / "dataset.json").read_text())
    del info["twin"]
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    pixels = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    with pytest.raises(DataError, match="holds real data"):
        twins.ensure_twin("breastus", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()} == pixels


def test_a_card_without_a_twin_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="unknown synthetic twin 'isik'") as caught:
        list(twins.entries("isik"))
    assert "did you mean 'isic'" in caught.value.hint


def test_the_twin_of_mimic_has_reports_and_an_official_split(monkeypatch, tmp_path):
    twin = twins.TWINS["mimic_cxr"]
    few = dict.fromkeys(twin.counts, 12)
    monkeypatch.setitem(twins.TWINS, "mimic_cxr", twins.Twin(twin.draw, few, twin.report))
    manifest = twins.ensure_twin("mimic_cxr", tmp_path / "mimic_cxr")
    assert all(text[0].isupper() and text.endswith(".") for text in manifest.texts)
    assert all(len(manifest.indices(split)) for split in ("train", "val", "test"))
    names = [manifest.classes[k] for k in np.flatnonzero(manifest.multilabels[0])]
    entry = next(e for e in twins.entries("mimic_cxr") if manifest.ids[0].endswith(f"{e.number:05d}"))
    assert "|".join(names) == entry.label and manifest.texts[0] == twins.describe("mimic_cxr", entry)


@pytest.mark.parametrize(
    ("label", "word", "brighter"),
    [
        ("Lung Opacity", "lung opacity", True),
        ("Pleural Effusion", "effusion", True),
        ("Pneumothorax", "pneumothorax", False),
    ],
)
def test_a_report_tells_the_side_that_the_picture_shows(label, word, brighter):
    """The right lung is on the left of the picture, as radiographs are read."""
    for number in range(12):
        text = radiographs.report(label, np.random.default_rng(number))
        shown, healthy = (
            radiographs.reported_radiograph(name, np.random.default_rng(0), np.random.default_rng(number))
            for name in (label, "No Finding")
        )
        change = shown - healthy if brighter else healthy - shown
        halves = {"right": change[:, :32].sum(), "left": change[:, 32:].sum()}
        assert word in text.lower() and max(halves, key=halves.get) in text.lower()
