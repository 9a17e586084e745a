"""The page in a real browser, where Chromium is installed: sorted, filtered, a run's view opened, nothing from the data runs."""

import base64
import hashlib
import html as entities
import json
import re
import shutil
import subprocess

import pytest

from medpeft_cli.report import build_report
from medpeft_cli.report.html import html
from tests.report.run_folder import cost, fill

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
EVIL = "<img src=x onerror=\"document.body.id='pwned'\"></script><script>document.body.id='pwned'</script>"

DRIVER = """
const rows = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
const seen = {};
const lines = document.querySelector("table.lines"), runs = document.querySelector("table.long");
seen.before = rows(lines);
const head = [...lines.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith("HAM10000"));
head.querySelector("button").click();
seen.ascending = [rows(lines), head.getAttribute("aria-sort")];
head.querySelector("button").click();
seen.descending = [rows(lines), head.getAttribute("aria-sort")];
head.querySelector("button").click();
seen.restored = [rows(lines), head.getAttribute("aria-sort")];
const filter = document.querySelector("input[aria-label='Filter runs by words']");
filter.value = "lora";
filter.dispatchEvent(new Event("input"));
seen.filtered = rows(runs);
filter.value = "";
const state = document.querySelector("select[aria-label=State]");
state.value = [...state.options].find((option) => option.textContent === "failed").value;
state.dispatchEvent(new Event("change"));
seen.failed = rows(runs);
const read = (words, kind) => number(make("table", { class: kind }, make("tr", {}, make("td", {}, words))).querySelector("td"));
seen.numbers = ["3.8–7.2K", "988–1.20K", "59.3K + 769", "−0.012", "< 0.001", "3 of 5", "–"].map((words) => read(words, "lines"));
seen.words = read("3D scans", "long");
const link = [...document.querySelectorAll("td a")].find((each) => each.getAttribute("href").startsWith("#cell-"));
link.focus();
link.click();
setTimeout(() => {
  seen.cell = view.querySelectorAll("h3 a").length;
  view.querySelector("h3 a").click();
  setTimeout(() => {
    seen.run = { headings: [...view.querySelectorAll("h3")].map((each) => each.textContent), charts: view.querySelectorAll("svg").length,
                 hidden: overview.hidden, focus: document.activeElement.tagName, wide: document.documentElement.scrollWidth - innerWidth, width: innerWidth };
    const before = location.hash;
    document.querySelector(".skip").focus();
    document.querySelector(".skip").click();
    setTimeout(() => {
      seen.skipped = [view.hidden, document.activeElement.tagName, location.hash === before];
      view.querySelector(".back a").click();
      setTimeout(() => {
        seen.back = [overview.hidden, view.hidden, document.activeElement === link];
        seen.evil = document.body.id;
        parent.postMessage(JSON.stringify(seen), "*");
      }, 50);
    }, 50);
  }, 50);
}, 50);
"""  # fmt: skip
PHONE = """<!doctype html><iframe src="page.html" style="width: 390px; height: 800px; border: 0"></iframe><pre id="seen"></pre>
<script>addEventListener("message", (event) => { document.getElementById("seen").textContent = event.data; });</script>"""


def test_a_reader_sorts_filters_and_opens_a_run(record, results, tmp_path):
    folder = fill(results(
        *(record(method="ssf", seed=seed, value=0.8, **cost()) for seed in (0, 1)),
        *(record(method="lora", seed=seed, value=0.9, **cost()) for seed in (0, 1)),
        record(method="full", status="failed", error=EVIL, id=EVIL, command=EVIL), record(method="linear", value=0.7),
    ))  # fmt: skip
    page = html(build_report(folder))
    sign = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    page = page.replace("script-src '", f"script-src 'sha256-{sign}' '").replace(
        "</body>", f"<script>{DRIVER}</script></body>"
    )
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "phone.html").write_text(PHONE)  # a window of Chromium is never that narrow
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=800,900", "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path}/phone.html"],
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    seen = json.loads(entities.unescape(found[1]))
    assert seen["before"] == ["Full FT", "Linear probing", "LoRA", "SSF"]
    assert seen["ascending"] == [["Linear probing", "SSF", "LoRA", "Full FT"], "ascending"]  # without a number: last
    assert seen["descending"] == [["LoRA", "SSF", "Linear probing", "Full FT"], "descending"]
    assert seen["restored"] == [seen["before"], None]
    assert seen["filtered"] == ["LoRA", "LoRA"] and seen["failed"] == ["Full FT"]
    assert seen["evil"] == ""
    assert seen["numbers"] == [3800, 988, 59300, -0.012, 0.001, 3, None] and seen["words"] is None
    assert seen["cell"] == 2
    assert {"Run it again", "Metrics", "Curves", "Recipe", "Environment"} <= set(seen["run"]["headings"])
    assert (
        seen["run"]["charts"] == 3
        and seen["run"]["hidden"]
        and seen["run"]["focus"] == "H2"
        and seen["run"]["width"] == 390
        and seen["run"]["wide"] <= 0
    )
    assert seen["skipped"] == [False, "H2", True]  # still in the run's view
    assert seen["back"] == [False, True, True]  # and back on the link that led there
