"""The page of a report: whole, safe, of bounded size, and the same each time."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from medpeft_cli.report import build_report
from medpeft_cli.report.html import SCRIPT, embedded, html
from medpeft_cli.report.page_data import CONFUSIONS
from tests.report.run_folder import add_history, add_pictures, cost, fill, generated
from tests.report.test_records import DAMAGED

EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>\"'&{{7*7}}\u202e" + "x" * 300
VOID = ("img", "meta", "br", "input")


class Page(HTMLParser):
    """Collects elements, attributes, text and scripts; fails on elements that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.sources, self.words, self.scripts, self.policy = [], [], [], "", [], ""
        self.ids = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert not [name for name in found if name.startswith("on")]
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        self.ids |= {found["id"]} if "id" in found else set()
        self.policy = found.get("content", "") if found.get("http-equiv") else self.policy
        self.scripts += [[found.get("type"), ""]] if tag == "script" else []
        self.words += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        elif self.open and self.open[-1] != "style":
            self.words += data

    @property
    def data(self):
        return json.loads(self.scripts[0][1])


@pytest.fixture
def page(results, monkeypatch):
    """Records to page, without figures: they are tested apart."""
    monkeypatch.setattr("medpeft_cli.report.figures.drawings", lambda report: [])

    def make(*records, folder=None):
        return Page(html(build_report(folder or results(*records))))

    return make


def test_damaged_records_are_listed_and_the_page_is_whole(page, record):
    damaged = [record(**{"seed": 1, "id": f"damaged{i}"} | changes) for i, (changes, _) in enumerate(DAMAGED)]
    found = page(record(), *damaged)
    assert len(found.data["runs"]) == 1 and all(f"damaged{i}" in found.words for i in range(len(DAMAGED)))


def test_the_page_has_every_number_and_every_way_to_it(page, record, results):
    folder = fill(results(*(record(seed=seed, value=0.8 + seed / 100, **cost()) for seed in (0, 1)),
                          record(method="lora", status="failed", error="out of memory\nline two"), generated(record)))  # fmt: skip
    found = page(folder=folder)
    assert "0.805" in found.words and "± 0.007" in found.words
    inner = [link[1:] for link in found.links]
    views = [name for link in inner if link.startswith(("run-", "cell-")) for name in link.split("-")[1].split(".")]
    assert set(views) == set(found.data["runs"]) and len(views) > 4
    assert {link for link in inner if not link.startswith(("run-", "cell-"))} <= found.ids
    assert "failed: out of memory" in found.words and "medpeft finetune recipes/isic_lora.yaml" in found.words
    run = next(run for run in found.data["runs"].values() if run["method"] == "SSF" and run["seed"] == 1)
    assert run["command"] == "medpeft finetune recipes/isic_ssf.yaml" and run["folder"].endswith(run["id"])
    assert run["test"]["overall"]["f1_macro"] == [0.81, 0.77, 0.85] and run["test"]["matrix"][0] == [8, 1, 1]
    assert run["counts"]["peak memory"] == "2.0 GB (allocated)" and run["counts"]["picked"] == "epoch 4 by f1_macro"
    assert run["curve"]["x"] == [1, 2, 3, 4, 5] and run["curve"]["val"]["f1_macro"][1] == pytest.approx(0.16)
    assert sum(images for _, _, images in run["bins"]) == 30
    assert found.data["recipes"][run["recipe"]]["train.lr"] == "0.001"
    assert found.data["environments"][run["environment"]]["versions.torch"] == "2.13.0"
    failed = next(run for run in found.data["runs"].values() if run["method"] == "LoRA")
    assert failed["error"] == "failed: out of memory\nline two" and "test" not in failed
    pictured = next(run for run in found.data["runs"].values() if run["method"] == "bias")
    assert pictured["samples"].startswith("data:image/jpeg;base64,")


def test_nothing_from_the_data_can_act_and_nothing_is_fetched(page, record, results):
    names = {"title": EVIL, "method_title": EVIL, "backbone_title": EVIL, "classes": ("a", EVIL), "command": EVIL}
    records = [
        record(seed=s, id=f"{s}{EVIL}", identity=f"{s}{EVIL}", recipe={"train": {EVIL: EVIL}}, **names) for s in (0, 1)
    ]
    records += [
        record(method="lora", status="failed", error={"message": EVIL}, environment={EVIL: {EVIL: EVIL}}, **names)
    ]
    folder = fill(results(*records))
    bad = folder / "<img src=x onerror=alert(1)>"
    bad.mkdir()
    (bad / "record.json").write_text(json.dumps({"schema_version": EVIL}))
    found = page(folder=folder)
    assert [kind for kind, _ in found.scripts] == ["application/json", None]
    sign = base64.b64encode(hashlib.sha256(found.scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{sign}';" in found.policy and "default-src 'none'" in found.policy
    assert all(link.startswith("#") for link in found.links) and found.sources == []
    assert all(re.fullmatch(r"#((run|cell)-)?[A-Za-z0-9.-]+", link) for link in found.links)
    assert "{{7*7}}" in found.words and "\u202e" not in found.words and "pwned" in found.words
    assert all(len(run["id"]) <= 160 for run in found.data["runs"].values())


@pytest.mark.parametrize("value", ["</script>", "<!--", "\u2028", "&lt;", "é\ud800"])
def test_embedded_data_has_no_sign_of_html(value):
    shown = embedded({"a": value})
    assert shown.isascii() and not set("<>&") & set(shown) and json.loads(shown) == {"a": value}


def test_the_script_builds_no_markup():
    source = SCRIPT.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|</", source)


def test_demo_results_are_a_part_of_their_own(page, record):
    found = page(record(value=0.8), record(value=0.3, demo=True))
    real, demo = found.words.split("Synthetic data and bundled tiny networks")
    assert "0.800" in real and "0.300" not in real and "0.300" in demo and "0.800" not in demo
    assert {"results-tables", "demo-tables", "results-runs", "demo-runs"} <= found.ids


def test_what_could_not_be_used_is_listed(page, record, results):
    folder = results(record(), record(revision=2, id="newer"))
    (folder / "half").mkdir()
    (folder / "half" / "record.json").write_text('{"schema_version": 1,')
    found = page(folder=folder)
    assert "half/record.json" in found.words and "half written or damaged" in found.words
    assert "Results revisions 1, 2 are never averaged" in found.words


def test_the_same_records_give_the_same_bytes(record, results):
    folder = fill(results(record(), record(method="lora")))
    assert html(build_report(folder)) == html(build_report(folder))


def test_many_classes_and_long_histories_stay_small(page, record, results):
    classes = tuple(f"condition {i}" for i in range(114))
    folder = results(record(classes=classes))
    path = next(folder.rglob("record.json"))
    add_history(path.parent, epochs=3000)
    (run,) = page(folder=folder).data["runs"].values()
    assert len(run["test"]["confused"]) == CONFUSIONS and "matrix" not in run["test"]
    assert len(run["curve"]["x"]) <= 120 and len(json.dumps(run)) < 60_000


def test_two_runs_of_one_identity_have_views_of_their_own(page, record):
    same = {"identity": "0123abcd"}
    assert len(page(record(**same), record(revision=2, id="newer", **same)).data["runs"]) == 2


def test_pictures_that_are_none_are_left_out(page, record, results):
    folder = results(generated(record), generated(record, "lora"))
    paths = sorted(folder.rglob("record.json"))
    for path in paths:
        add_pictures(path.parent)
    sheet = paths[0].parent / "samples" / "step-000010.png"
    sheet.write_bytes(b"\x89PNG nothing")
    large = paths[1].parent / "samples" / "step-000010.png"
    Image.fromarray(np.zeros((1, 9000), np.uint8)).save(large)
    assert all("samples" not in run for run in page(folder=folder).data["runs"].values())


def test_the_command_writes_page_and_figures_without_torch(record, results, root):
    folder = results(record())
    code = (
        "import sys\n"
        f"sys.argv = ['medpeft', 'report', {str(folder)!r}, '--html', '--figures']\n"
        "from medpeft_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (folder / "report").iterdir()}
    assert written == {"index.html", "confusion-vit-ham10000.pdf", "confusion-vit-ham10000.png"}
    assert [line.rsplit("/", 1)[1] for line in done.stdout.split()] == [
        "confusion-vit-ham10000.pdf", "confusion-vit-ham10000.png", "index.html",
    ]  # fmt: skip
    found = Page((folder / "report" / "index.html").read_text())
    assert [source[:26] for source in found.sources] == ["data:image/svg+xml;base64,"]
