"""The paper's printed numbers: the data file against itself, and given back when its own cells are the records."""

import json
from statistics import fmean

import pytest
from scipy.stats import rankdata

from medpeft_cli.report import Question, build_report, render
from medpeft_cli.report.paper import tables

TIMM = {  # as recipes name them
    "resnet50": "resnet50.a1_in1k",
    "vit_base_patch16_224": "vit_base_patch16_224.augreg_in21k",
    "vit_large_patch16_224": "vit_large_patch16_224.augreg_in21k",
    "vit_huge_patch14_224": "vit_huge_patch14_224.orig_in21k",
}
LOWER = {"table4"}
SIZES = {"vit_base_patch16_224": 86_000_000, "vit_large_patch16_224": 303_000_000, "vit_huge_patch14_224": 630_000_000}


def cells(name):
    """(block, row, method, mean) of each printed cell of a table."""
    table = tables()[name]
    return [
        (block, row, method, value[0] if isinstance(value, list) else value)
        for block, rows in table["rows"].items()
        for row, values in rows.items()
        for method, value in zip(table["methods"], values, strict=True)
    ]


def paper_records(record, name):
    """One record for each printed cell."""
    made = []
    for block, row, method, value in cells(name):
        if name == "table4":
            scores = {"n": 1000, "overall": {"fid": {"value": value}}}
            recipe = {"pipeline": {"name": f"stable-diffusion-v1-5/{block}"}, "method": {"name": method}}
            extra = {"metrics": {"test": scores}, "recipe": recipe, "title": "MIMIC-CXR", "family": "unet"}
            made.append(record("mimic_cxr", method, fraction=float(row), backbone=block, **extra))
        else:
            backbone = TIMM.get(block, block)
            size = {"parameters": {"total": SIZES.get(block, 0), "method": 1234, "head": 769}}
            family = "cnn" if name == "table2" else "vit"
            made.append(record(row, method, 0, value, family=family, backbone=backbone, **size))
    return made


def shown(sheet, label):
    """The texts of all lines with a label, section by section."""
    return [
        [cell.value for cell in line.cells]
        for section in sheet.sections
        for line in section.lines
        if line.label == label
    ]


def test_the_file_has_every_cell_of_the_paper():
    assert {name: len(cells(name)) for name in tables()} == {"table2": 30, "table3": 120, "table4": 24, "table5": 80}
    assert {name: table["ties"] for name, table in tables().items()} == {
        "table2": "dense", "table3": "average", "table4": "average", "table5": "ordinal",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5"])
def test_printed_means_and_ranks_follow_from_printed_cells(name):
    """Every value of the file is checked by sums that the paper prints, but for the misprints that the file names."""
    table = tables()[name]
    wrong = {tuple(misprint["at"]) for misprint in table["misprints"]}
    digits = 0.0051  # printed with two
    for block, means in table["means"].items():
        columns = zip(*table["rows"][block].values(), strict=True)
        for method, column, mean in zip(table["methods"], columns, means, strict=True):
            found = fmean(value[0] if isinstance(value, list) else value for value in column)
            assert (abs(found - mean) <= digits) != ((block, "mean", method) in wrong), (block, method, found, mean)
    ranked = {}
    sign = 1 if name in LOWER else -1
    for block, rows in table["rows"].items():
        for values in rows.values():
            printed = [sign * (value[0] if isinstance(value, list) else value) for value in values]
            key = block if block in table["ranks"] else "together"
            ranked.setdefault(key, []).append(rankdata(printed, method=table["ties"]))
    assert ranked.keys() == table["ranks"].keys()
    for key, rows in ranked.items():
        assert [fmean(column) for column in zip(*rows, strict=True)] == pytest.approx(table["ranks"][key], abs=0.051)


def test_every_misprint_names_a_number_that_is_there():
    for table in tables().values():
        for misprint in table["misprints"]:
            block, row, method = misprint["at"]
            assert method in table["methods"] and misprint["says"]
            kinds = {"mean": table["means"], "rank": table["ranks"], "parameters": table["parameters"]}
            assert block in kinds[row] if row in kinds else row in table["rows"][block]


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5"])
def test_the_papers_cells_as_records_give_back_its_numbers(record, results, name):
    report = build_report(results(*paper_records(record, name)), Question(against_paper=True))
    assert [table.spec.name for table in report.tables] == [name]
    (table,), sheet, paper = report.tables, report.sheets[0], tables()[name]
    assert [column["method"] for column in table.columns] and len(table.columns) == len(paper["methods"])
    assert [len(block.rows) for block in table.blocks] == [len(rows) for rows in paper["rows"].values()]

    # every cell is printed twice, without a difference
    differences = shown(sheet, "difference")
    printed_rows = sum(len(rows) for rows in paper["rows"].values())
    by_kind = {kind: [] for kind in ("value", "mean", "rank")}
    for section in sheet.sections:
        for line, below in zip(section.lines, [*section.lines[2:], None, None], strict=False):
            if line.kind in by_kind and below and below.label == "difference":
                by_kind[line.kind].append([cell.value for cell in below.cells])
    assert len(by_kind["value"]) == printed_rows and len(differences) == sum(map(len, by_kind.values()))
    assert {value for line in by_kind["value"] for value in line} == {"0.00" if name == "table4" else "0.000"}

    # means and ranks differ by no more than the printed digits, but where the misprint is named
    wrong = {misprint["at"][2] for misprint in paper["misprints"] if misprint["at"][1] == "mean"}
    for line in by_kind["mean"]:
        for method, value in zip(paper["methods"], line, strict=True):
            assert (abs(float(value.replace("−", "-"))) <= 0.005) != (method in wrong)
    assert len(by_kind["mean"]) == len(paper["means"]) and len(by_kind["rank"]) == len(paper["ranks"])
    assert all(abs(float(value.replace("−", "-"))) <= 0.051 for line in by_kind["rank"] for value in line)
    for misprint in paper["misprints"]:
        assert any(misprint["says"] in note for sheet in report.sheets for note in sheet.notes), misprint


CLASSES = {"breastus": 3, "fitzpatrick": 3, "isic": 7, "smdg": 2, "pneumonia": 2}
FEATURES = {"resnet50": 2048, "vit_base_patch16_224": 768, "vit_large_patch16_224": 1024, "vit_huge_patch14_224": 1280}
COUNTED = {  # on the models themselves by tests/golden, with a 3-class head where the paper's number has one
    "resnet50": {"full": 23_514_179, "tsa": 10_616_832, "norm": 59_267, "bias": 32_707, "ssf": 53_120},
    "vit_base_patch16_224": {
        "full": 85_800_963, "attention": 28_502_019, "bias": 105_219, "lora": 589_824, "ssf": 205_824, "adaptformer": 101_436,
        "norm": 38_400,
    },
    "vit_large_patch16_224": {
        "full": 303_304_707, "attention": 100_966_403, "bias": 275_459, "lora": 1_572_864, "ssf": 544_768, "adaptformer": 270_456,
        "norm": 100_352,
    },
    "vit_huge_patch14_224": {
        "full": 630_768_643, "attention": 210_211_843, "bias": 456_963, "lora": 2_621_440, "ssf": 906_240, "adaptformer": 450_720,
        "norm": 166_400,
    },
    "stable-diffusion-v1-5": {
        "full": 859_520_964, "attention": 267_239_360, "bias": 343_684, "norm": 200_320, "bias_norm_attention": 267_421_124,
        "lora": 797_184, "svdiff": 222_805, "difffit": 581_124,
    },
}  # fmt: skip
UNITS = {"K": 1e3, "M": 1e6}


def agrees(count, printed):
    """Whether a count gives a printed number, rounded or cut."""
    digits = len(printed.partition(".")[2].rstrip("KM"))
    return abs(count / UNITS[printed[-1]] - float(printed[:-1])) < 10**-digits


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_counted_parameters_give_back_the_printed_ones(record, results, name):
    """Of Tables 2, 4 and, beside Table 3, of Table 6: all that do not agree are named as misprints, and no other."""
    records = paper_records(record, name)
    for each in records:
        data, recipe = each["recipe"]["data"], each["recipe"]
        block = recipe.get("pipeline", recipe["backbone"])["name"].removeprefix("stable-diffusion-v1-5/").split(".")[0]
        method = recipe["method"]["name"]
        head = (FEATURES[block] + 1) * CLASSES[data["card"]] if method == "linear" else 0
        total = max(COUNTED[block].values())
        each["parameters"] = {"total": total, "method": COUNTED[block].get(method, 0), "head": head}
    report = build_report(results(*records), Question(against_paper=True))
    (table,), paper = report.tables, tables()[name]
    beside = report.printed(table)
    wrong = {tuple(misprint["at"]) for misprint in paper["misprints"] if misprint["at"][1] == "parameters"}
    for block, key, numbers in zip(table.blocks, paper["parameters"], beside.parameters, strict=True):
        for method, (counts, heads), number in zip(paper["methods"], block.parameters, numbers, strict=True):
            assert number.text == paper["parameters"][key][paper["methods"].index(method)]
            low, _, high = number.text.partition("–")
            ours = heads if method == "linear" else counts
            same = agrees(ours[0], f"{low}K") and agrees(ours[-1], high) if high else agrees(ours[0], low)
            assert same != ((key, "parameters", method) in wrong), (key, method, ours, number)
    last = report.sheets[-1]
    ours = next(line for line in last.sections[0].lines if line.kind == "parameters")
    if name == "table3":
        assert last.title == "Trainable parameters, ViT backbones" and ours.label == TIMM["vit_base_patch16_224"]
        assert [cell.value for cell in ours.cells] == ["85.8M", "0", "28.5M", "105K", "590K", "206K", "101K", "38.4K"]
        assert ours.cells[1].small == "+ 1.54K–5.38K"
        assert sum("a classifier on" in note for note in last.notes) == 3


def test_tables_3_and_5_have_their_parameters_in_table_6(record, results):
    report = build_report(results(*paper_records(record, "table3")), Question(against_paper=True))
    _, sheet = report.sheets
    assert sheet.title == "Trainable parameters, ViT backbones"
    assert shown(sheet, "paper")[1][:3] == ["303M", "3.8–7.2K†", "100M"]
    assert [line.label for line in sheet.sections[0].lines][::2] == list(TIMM.values())[1:]


def test_all_forms_show_the_paper_and_name_the_rule(record, results):
    report = build_report(results(*paper_records(record, "table2")), Question(against_paper=True))
    for form in ("latex", "markdown"):
        out = render(report, form).replace("\\", "")
        assert "dense ranks" in out and "should" not in out and "average 0.782" in out
    assert r"0.77$\dagger$" in render(report, "latex")
    table = json.loads(render(report, "json"))["tables"][0]
    assert table["rows"][0]["cells"][0]["paper"] == 0.72 and table["rows"][0]["cells"][0]["difference"] == 0
    assert table["blocks"][0]["rank_ties"] == "dense"
    header, first = render(report, "csv").splitlines()[:2]
    assert header.endswith(",paper,difference") and first.endswith(",0.72,0.0")


def test_without_a_whole_table_no_mean_and_no_rank_is_compared(record, results):
    some = paper_records(record, "table2")[:12]  # two datasets
    (sheet,) = build_report(results(*some), Question(against_paper=True)).sheets
    kinds = [line.kind for line in sheet.sections[0].lines]
    assert kinds == ["parameters", "paper", "value", "paper", "paper", "value", "paper", "paper", "mean", "rank"]


def test_nothing_of_the_paper_stands_beside_other_settings(record, results):
    others = [
        record(demo=True),
        record(method="lora", recipe={"backbone": {"weights": "random"}}),
        record(backbone="vit_base_patch16_224_miil.in21k"),
        record(fraction=0.1, backbone="vit_base_patch16_224.x", seed=1),
        record(method="lora", family="cnn", backbone="resnet50d"),
    ]
    report = build_report(results(*others), Question(against_paper=True))
    assert not any(
        line.kind == "paper" for sheet in report.sheets for section in sheet.sections for line in section.lines
    )
    asked = build_report(results(record(family="cnn", backbone="resnet50")), Question("auroc_ovr", against_paper=True))
    assert not any(report.printed(table) for table in asked.tables if table.family == "cnn")
