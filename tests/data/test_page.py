import re
from html.parser import HTMLParser

import numpy as np
import pytest

from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.prepare import write_dataset

EVIL = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.text += " " if tag in ("td", "dd", "li") else ""
        self.addresses += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        self.events = [name for name, _ in attrs if name.startswith("on")]
        assert not self.events
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(tmp_path, make_card):
    def make(texts=None, classes=(EVIL, "b"), task="classify", left_out=(), expected=None, **options):
        def read(sample):
            number = int(sample.id.partition(" ")[0])
            return np.random.default_rng(number % 16).integers(0, 256, (40, 50, 3), dtype=np.uint8)

        samples = [
            Sample(
                f"{n} {EVIL}",
                f"{n} {EVIL}",
                classes[n // 2 % 2] if classes else "",
                f"{n}",
                text=texts[n] if texts else "",
            )
            for n in range(20)
        ]
        layout = {"kind": "csv", "file": "t.csv", "image": "i"}
        layout |= ({"text": "t"} if texts else {}) | ({"label": "l"} if classes else {})
        expected = ({"b": 10} if "b" in classes else {}) if expected is None else expected
        card = make_card(layout, classes=classes, task=task, title=f"Title {EVIL}", expected=expected)
        write_dataset(tmp_path / "root", card, samples, read, left_out=left_out, **options)
        return (tmp_path / "root/report.html").read_text(encoding="utf-8")

    return make


def test_the_page_is_whole_and_shows_what_there_is(page):
    text = page(left_out=[("x.txt", "not a picture file")] * 30 + [("m.png", "mask")])
    found = Page(text)
    assert found.open == []
    words = re.sub(r"\s+", " ", found.text)
    assert "4 pictures have the pixels of another" in words
    assert "30 · not a picture file" in words and "and 10 more" in words and "1 · mask" in words
    assert "No group, no picture and no near-duplicate is in two splits" in words
    assert re.search(r"b \d+ \d+ \d+ 10 ✓", words)
    assert "short side of the originals: all 40 pixels" in words and "grey values" in words
    assert "card" not in re.sub(r"\s+", " ", Page(page(expected={})).text).split("all pictures")[0].split("class")[-1]
    assert found.tags.count("svg") == 1 + 2 and found.tags.count("blockquote") == 0
    assert found.tags.count("img") == 20 + 2 * 4


def test_nothing_from_the_data_becomes_markup_and_nothing_is_fetched(page):
    text = page(texts=[f"report {n} {EVIL}" for n in range(20)], left_out=[(EVIL, EVIL)], origin={"warnings": [EVIL]})
    found = Page(text)
    assert "script" not in found.tags and found.text.count("alert(1)") > 20
    assert found.addresses and all(address.startswith("data:image/jpeg;base64,") for address in found.addresses)
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", text)
    assert "default-src 'none'" in text


def test_texts_are_counted(page):
    found = Page(page(texts=["one two ___ four"] * 10 + [f"text {n}" for n in range(9)] + [""]))
    words = re.sub(r"\s+", " ", found.text)
    assert "11 of 20" in words and "median 3, longest 4" in words
    assert found.tags.count("blockquote") == 3


def test_a_dataset_of_texts_without_classes_has_a_page(page):
    facts = {"sections": {"findings": 3, "impression": 17}, "marks": 5, "texts_with_marks": 4, "marks_are": "removed"}
    found = Page(page(texts=[f"text {n}" for n in range(20)], classes=(), task="text", origin={"texts": facts}))
    words = re.sub(r"\s+", " ", found.text)
    assert words.count("all pictures") == 2 and "classes" not in words.lower()  # in the table, and above the sheet
    assert "findings 3, impression 17" in words and "5 in 4 texts, removed" in words


def test_what_was_decided_about_leaks_is_shown_with_what_is_left(tmp_path, make_card):
    layout = {"kind": "class_folders", "splits": {"train": "A", "val": "B", "test": "C"}}
    samples = [Sample(f"{n:02}", f"{n:02}", "ab"[n % 2], f"g{n}", ("train", "val", "test")[n // 10]) for n in range(30)]
    write_dataset(
        tmp_path / "root",
        make_card(layout),
        samples,
        lambda sample: np.random.default_rng(int(sample.id) % 24).integers(0, 256, (20, 20), dtype=np.uint8),
        on_leak="drop",
    )
    words = re.sub(r"\s+", " ", Page((tmp_path / "root/report.html").read_text()).text)
    assert "6 pictures also in a more protected split: left out; listed in leaks.csv" in words
    assert "Now no group, no picture and no near-duplicate is in two splits" in words


def test_leaks_that_were_allowed_are_shown(tmp_path, make_card):
    layout = {"kind": "class_folders", "splits": {"train": "A", "val": "B", "test": "C"}}
    samples = [Sample(f"{n:02}", f"{n:02}", "ab"[n % 2], "p0" if n % 10 == 0 else f"g{n}", ("train", "val", "test")[n // 10])
               for n in range(30)]  # fmt: skip
    write_dataset(
        tmp_path / "root",
        make_card(layout, split={"group": "patient"}),
        samples,
        lambda sample: np.random.default_rng(int(sample.id)).integers(0, 256, (20, 20), dtype=np.uint8),
        on_leak="allow",
    )
    found = Page((tmp_path / "root/report.html").read_text())
    words = re.sub(r"\s+", " ", found.text)
    assert "2 pictures also in a more protected split: kept, as --on-leak allow says" in words
    assert "no patient in two splits" not in words
    assert words.count("train 20 test same patient") == 1 and words.count("val 20 test same patient") == 1
