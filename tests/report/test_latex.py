"""LaTeX as a whole: every kind of table and every macro, compiled by pdflatex where there is one."""

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from medpeft_cli.report import Question, build_report, files, render
from medpeft_cli.report.latex import COLUMNS
from medpeft_cli.report.macros import macros
from tests.report.run_folder import fill, generated
from tests.report.test_paper import paper_records
from tests.report.test_render import HOSTILE, latex_problems

PDFLATEX = shutil.which("pdflatex")
PDFTOPPM = shutil.which("pdftoppm")
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\input{numbers}
\begin{document}
\input{tables}
CITED
\end{document}
"""


def numbers(report) -> dict[tuple[str, ...], str]:
    """What numbers.tex defines."""
    lines = re.findall(r"^\\medpeft@set((?:\{[^}]*\})+)$", macros(report), re.M)
    words = [re.findall(r"\{([^}]*)\}", line) for line in lines]
    assert all(len(each) == 6 for each in words)
    return {tuple(each[:5]): each[5] for each in words}


def test_a_number_has_its_full_name_and_a_short_one_while_it_is_the_only_one(record, results):
    report = build_report(
        results(*(record("isic", "ssf", s, v) for s, v in enumerate((0.8, 0.9))), record("isic", "ssf", fraction=0.1))
    )
    found = numbers(report)
    setting = "vitbasepatch16224"
    assert (
        found["", setting, "isic", "ssf", "f1macro"] == "0.850"
        and found["", setting, "isic", "ssf", "f1macrosd"] == "0.071"
    )
    assert found["", f"{setting}-f10", "isic", "ssf", "f1macro"] == "0.800"
    assert ("", "", "isic", "ssf", "f1macro") not in found  # there are two
    assert found["", "", "isic", "ssf", "f1macrosd"] == "0.071"  # there is one


def test_every_number_of_a_whole_table_has_a_macro(record, results):
    report = build_report(results(*paper_records(record, "table2")))
    found = numbers(report)
    (table,) = report.tables
    for row, cells in zip(("breastus", "fitzpatrick", "isic", "smdg", "pneumonia"), table.cells, strict=True):
        for method, cell in zip(("full", "linear", "tsa", "norm", "bias", "ssf"), cells, strict=True):
            assert found["", "", row, method, "f1macro"] == f"{cell.mean:.3f}"
    assert found["", "", "mean", "ssf", "f1macro"] == "0.850" and found["", "", "rank", "ssf", "f1macro"] == "1.30"
    assert found["", "resnet50a1in1k", "isic", "tsa", "parameters"] == "1.23K"


def test_demo_and_old_revisions_are_named_so(record, results):
    found = numbers(
        build_report(
            results(
                record(demo=True, value=0.1, id="demo"), record(value=0.2), record(value=0.3, revision=2, id="newer")
            )
        )
    )
    values = {key[:2]: value for key, value in found.items() if key[4] == "f1macro"}
    assert values == {
        ("demo", ""): "0.100", ("demo", "vitbasepatch16224"): "0.100",
        ("", ""): "0.300", ("", "vitbasepatch16224"): "0.300", ("", "vitbasepatch16224-r1"): "0.200",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "columns"), [("dataset", "method"), ("dataset", "fraction"), ("method", "dataset"), ("seed", "backbone")]
)
def test_a_macro_names_the_run_of_its_number_whatever_the_rows(record, results, rows, columns):
    full = record("isic", "full", value=0.6, backbone="vit_b", fraction=0.1)
    ssf = record("isic", "ssf", value=0.7, backbone="vit_l")
    found = numbers(build_report(results(full, ssf), Question(rows=(rows,), columns=(columns,))))
    seed = "-seed0" if rows == "seed" else ""
    assert found["", f"vitb-f10{seed}", "isic", "full", "f1macro"] == "0.600"
    assert found["", f"vitl{seed}", "isic", "ssf", "f1macro"] == "0.700"
    assert len({key[1] for key in found if key[1]}) == 2


def test_names_that_differ_in_signs_alone_are_not_defined_and_named(record, results):
    report = build_report(results(record(backbone="vit_a", value=0.7), record(backbone="vit.a", value=0.8)))
    assert not any(key[4] == "f1macro" for key in numbers(report))
    assert "% not defined, as its name is that of 2 numbers: {}{vita}{isic}{ssf}{f1macro}" in macros(report)


def test_points_and_exponents_of_numbers_tell_names_apart(record, results):
    amounts = [record(fraction=share, value=share) for share in (0.125, 0.0125)]
    rates = [record("smdg", value=lr / 100, recipe={"train": {"lr": lr}}) for lr in (1e-05, 1e05, 0.15, 1.5)]
    found = numbers(build_report(results(*amounts, *rates)))
    settings = {key[1].removeprefix("vitbasepatch16224-") for key in found if key[4] == "f1macro" and key[1]}
    assert settings == {"f12p5", "f1p25", "lr1em05", "lr100000p0", "lr0p15", "lr1p5"}


def test_pictures_that_were_judged_in_two_ways_have_two_numbers_and_no_short_one(record, results):
    runs = [generated(record, "bias", seed, fid) for seed, fid in enumerate((20.0, 90.0))]
    for run, name in zip(runs, ("xrv", "inception"), strict=True):
        run["metrics"]["test"]["protocol"] = {"encoder": {"name": name, "sha256": 64 * "a"}}
        run["metrics"]["test"]["generation"] = {"steps": 50}
    report = build_report(results(*runs))
    found = {key[:2]: value for key, value in numbers(report).items() if key[4] == "fid"}
    assert found == {("", "sd-way1"): "90.00", ("", "sd-way2"): "20.00"}
    assert "% way1: features of inception (aaaaaaaa)" in macros(report)
    lines = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert [line["table"] for line in lines] == ["table4-fid", "table4-fid-2"]
    assert [line["judged"].split(",")[0] for line in lines] == [
        "features of inception (aaaaaaaa)", "features of xrv (aaaaaaaa)",
    ]  # fmt: skip


def test_the_papers_numbers_and_the_tests_have_macros(record, results):
    runs = paper_records(record, "table2")
    folder = fill(results(*runs))
    report = build_report(folder, Question(against_paper=True, baseline="full"))
    found = numbers(report)
    assert found["", "", "isic", "ssf", "f1macropaper"] == r"0.89 $\pm$ 0.009"
    assert (
        found["", "", "mean", "full", "f1macropaper"] == "0.77"
        and found["", "", "rank", "ssf", "f1macropaper"] == "1.2"
    )
    assert re.fullmatch(r"(\$-\$|\+)?0\.\d{3}", found["", "", "isic", "ssf", "f1macrodiff"])
    assert re.fullmatch(r"[01]\.\d{3}|\$<\$ 0\.001", found["", "", "isic", "ssf", "f1macropmcnemar"])
    assert found["", "", "mean", "ssf", "f1macrodiff"] == "+0.068"
    kinds = {key[4].removeprefix("f1macro") for key in found if key[2:4] == ("mean", "ssf")}
    assert kinds == {"", "paper", "diff", "difflow", "diffhigh", "pnemenyi"}
    assert not any("ssf" in key and "diff" in key[4] for key in numbers(build_report(folder)))


def test_methods_as_rows_are_compared_downwards(record, results):
    records = [record(d, m, value=v) for d in ("isic", "smdg") for m, v in (("full", 0.7), ("ssf", 0.8), ("lora", 0.6))]
    report = build_report(results(*records), Question(rows=("method",), columns=("dataset",)))
    (sheet,) = report.sheets
    assert sheet.heads == ("Parameters", "HAM10000 (7,511)", "SMDG (7,511)", "Mean", "Rank")
    assert [line.label for line in sheet.sections[0].lines] == ["Full FT", "LoRA", "SSF"]
    assert [line.cells[1].mark for line in sheet.sections[0].lines] == ["second", "", "best"]
    assert latex_problems(render(report, "latex")) == []


def test_fields_of_the_recipe_can_be_rows_and_filters(record, results):
    records = [record(value=v, recipe={"train": {"lr": lr}}) for lr, v in ((1e-3, 0.7), (0.1, 0.5), (1e-2, 0.8))]
    report = build_report(
        results(*records), Question(rows=("train.lr",), where={"method": ["SSF"], "dataset": ["isic"]})
    )
    (table,) = report.tables
    assert [row["train.lr"] for row in table.rows] == ["0.001", "0.01", "0.1"]
    assert [cells[0].mean for cells in table.cells] == [0.7, 0.8, 0.5] and {c["variant"] for c in table.columns} == {""}


@pytest.fixture
def everything(record, results):
    """Records for every kind of table: the paper's, low data, demo, revisions, variants, failures, hostile names."""
    records = [each for name in ("table2", "table3", "table4", "table5") for each in paper_records(record, name)]
    records += [
        record("isic", m, s, 0.7 + s / 50, fraction=f) for m in ("full", "ssf") for s in range(3) for f in (0.1, 0.5)
    ]
    records += [
        record(demo=True),
        record(method="lora", revision=2),
        record("own", "lora", recipe={"method": {"rank": 4}}),
    ]
    records += [
        record("own", "lora", status="failed", error="loss became nan", seed=7),
        record("smdg", "x", status="running"),
    ]
    for i, words in enumerate(HOSTILE):
        names = {"title": words, "method_title": words, "backbone_title": words}
        records += [record(f"h{i}", f"m{i}", classes=(words, "b"), **names), record(f"h{i}", "full", 1, 0.5, **names)]
        records += [record(f"h{i}", f"m{i}", 2, status="failed", error=words, id=f"{i} {words}", **names)]
    return results(*records)


@pytest.mark.parametrize(
    "question",
    [
        Question(against_paper=True, baseline="full"),
        Question(rows=("method",), columns=("dataset",)),
        Question(rows=("seed", "train.lr"), columns=("backbone",)),
    ],
)
def test_every_kind_of_table_is_well_formed(everything, question, tmp_path):
    report = build_report(everything, question)
    source = render(report, "latex")
    assert latex_problems(source) == []
    labels = re.findall(r"\\label{([^}]*)}", source)
    assert len(labels) == len(set(labels)) and all(re.fullmatch(r"[a-z0-9:-]+", each) for each in labels)
    assert macros(report).isascii() and all(
        re.fullmatch(r"[a-z0-9-]*", word) for key in numbers(report) for word in key
    )
    if PDFLATEX:
        compiled(report, tmp_path / "tex")


@pytest.mark.skipif(not PDFLATEX, reason="no pdflatex")
@pytest.mark.parametrize("question", [Question(), Question(against_paper=True), Question(rows=("dataset", "backbone"))])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_papers_tables_fit_the_page(record, results, question, seeds, tmp_path):
    """With a bootstrap interval behind each number, or a standard deviation."""
    once = [each for name in ("table2", "table3", "table4", "table5") for each in paper_records(record, name)]
    records = [again(each, seed) for each in once for seed in range(seeds)]
    said = compiled(build_report(results(*records), question), tmp_path / "tex")
    assert "Overfull" not in said and "Float too large" not in said
    if PDFTOPPM:
        for page in pages(tmp_path / "tex"):
            dark = page < 128
            height, width = page.shape
            assert dark.mean() > 0.002, "a blank page"
            assert not dark[:, : width // 20].any() and not dark[:, -width // 20 :].any(), "beyond the margins"


@pytest.mark.skipif(not PDFLATEX, reason="no pdflatex")
def test_more_tables_than_latex_holds_at_once_compile(record, results, tmp_path):
    report = build_report(results(*(record(recipe={"train": {"lr": rate + 1}}) for rate in range(54 * COLUMNS))))
    assert render(report, "latex").count(r"\begin{table}") > 52
    compiled(report, tmp_path / "tex")


def test_notes_break_behind_the_hyphens_of_names_alone(record, results):
    source = render(build_report(results(record(), record(seed=1, status="failed", error="3.8–7.2K of a_b"))), "latex")
    assert "s1-{}\\allowbreak{}" in source and r"3.8--7.2K of a\_\allowbreak{}b" in source


def pages(folder):
    """Return the pages of paper.pdf as grey values."""
    subprocess.run([PDFTOPPM, "-png", "-gray", "-r", "50", "paper.pdf", "page"], cwd=folder, check=True, timeout=60)
    found = [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.glob("page-*.png"))]
    assert found
    return found


def again(run, seed):
    """The run with another seed, and a score near by."""
    other = json.loads(json.dumps(run | {"id": f"{run['id']}-{seed}", "identity": f"{run['identity']}{seed}"}))
    other["recipe"]["seed"] = seed
    for estimate in other["metrics"]["test"]["overall"].values():
        estimate["value"] += seed / 100
    return other


def compiled(report, folder):
    folder.mkdir()
    for name, content in files(report, ["latex"]).items():
        (folder / name).write_text(content)
    cited = "".join(
        f"\\medpeft[{key[1]}]{{{key[2]}}}{{{key[3]}}}{{{key[4]}}}\n" for key in numbers(report) if not key[0]
    )
    (folder / "paper.tex").write_text(
        DOCUMENT.replace("CITED", cited + "\\typeout{all cited}\\medpeft{no}{such}{number}")
    )
    said = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout[-3000:]
    assert "Undefined control sequence" not in said.stdout and "Output written on paper.pdf" in said.stdout
    before, after = said.stdout.split("all cited")
    assert "medpeft: no number" not in before and "no number, or not only one: []{no}{such}{number}" in " ".join(
        after.split()
    )
    return said.stdout
