"""Figures: what they compute, that they draw all there is, and that names from data do no harm."""

import json
import shutil
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import studentized_range

from medpeft_cli.metrics.classification import score
from medpeft_cli.metrics.predictions import read_predictions
from medpeft_cli.report import build_report
from medpeft_cli.report.figures import drawings, not_drawn, write_figures
from medpeft_cli.report.figures.plan import figure_tables
from medpeft_cli.report.figures.samples import common_prompts, heading
from medpeft_cli.report.figures.scores import COSTS, Point, cost_points, critical_difference, crossovers, pareto
from medpeft_cli.report.run_files import history, newest_samples, open_picture, reliability, untuned_folder
from tests.report.run_folder import add_pictures, add_predictions, cost, fill, generated

EVIL = "$\\frac{$</script><b>%_&#\u202etxt.exe مرحبا " + "x" * 300


# crossovers -------------------------------------------------------------------------------------------------------


def test_a_crossing_is_where_the_drawn_lines_meet():
    assert crossovers([(1, 0.7), (100, 0.8)], [(1, 0.6), (100, 0.9)]) == pytest.approx([10])
    assert crossovers([(1, 0.7), (100, 0.8)], [(1, 0.6), (100, 0.7)]) == []


def test_curves_cross_only_where_both_have_points():
    assert crossovers([(1, 0.7), (10, 0.5), (100, 0.8)], [(1, 0.6), (100, 0.7)]) == []
    assert crossovers([(1, 0.7)], []) == []


def test_equal_points_are_a_crossing_only_if_the_sides_change():
    base = [(1, 0.5), (10, 0.5), (100, 0.5)]
    assert crossovers([(1, 0.6), (10, 0.5), (100, 0.4)], base) == pytest.approx([10])
    assert crossovers([(1, 0.6), (10, 0.5), (100, 0.6)], base) == []


PERCENT = (1, 5, 10, 20, 30, 50, 80, 100)
FIGURE_1 = {  # read off the pixels of the paper's figure
    ("vit_base", "full"): (0.70, 0.740, 0.737, 0.779, 0.826, 0.87, 0.900, 0.914),
    ("vit_base", "bias"): (0.700, 0.748, 0.770, 0.819, 0.840, 0.868, 0.863, 0.871),
    ("vit_base", "lora"): (0.702, 0.776, 0.805, 0.830, 0.863, 0.873, 0.880, 0.910),
    ("vit_large", "full"): (0.70, 0.745, 0.784, 0.829, 0.84, 0.867, 0.895, 0.900),
    ("vit_large", "bias"): (0.700, 0.753, 0.797, 0.824, 0.840, 0.846, 0.865, 0.862),
    ("vit_large", "lora"): (0.710, 0.777, 0.802, 0.845, 0.862, 0.888, 0.895, 0.886),
}


@pytest.mark.parametrize(
    ("backbone", "method", "stated"),
    [("vit_base", "bias", 50), ("vit_base", "lora", 50), ("vit_large", "lora", 80), ("vit_large", "bias", 20)],
)
def test_the_papers_figure_1_gives_back_its_crossovers(backbone, method, stated):
    ours, base = (list(zip(PERCENT, FIGURE_1[backbone, name], strict=True)) for name in (method, "full"))
    (at,) = crossovers(ours, base)
    assert min(PERCENT, key=lambda percent: abs(np.log(percent / at))) == stated


# the other numbers ------------------------------------------------------------------------------------------------


def test_the_front_holds_what_nothing_beats():
    points = [Point(x, y, 0, None) for x, y in ((1, 0.5), (2, 0.5), (2, 0.7), (3, 0.6), (4, 0.8), (4, 0.9))]
    assert [(p.x, p.y) for p in pareto(points, True)] == [(1, 0.5), (2, 0.7), (4, 0.9)]
    assert [(p.x, p.y) for p in pareto(points, False)] == [(1, 0.5)]


def test_the_papers_resnet_front_leaves_out_tsa():
    """Section 6.10 of the reference sheet: TSA (10.6M, 0.83) is beaten by SSF (60.6K, 0.85)."""
    tsa, ssf = Point(10.6e6, 0.83, 0, None), Point(60.6e3, 0.85, 0, None)
    assert pareto([tsa, ssf], True) == [ssf]


def test_the_critical_difference_is_nemenyis():
    assert critical_difference(17, 5) == pytest.approx(11.05, abs=0.005)
    assert critical_difference(4, 14) == pytest.approx(
        2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3
    )  # Demšar 2006, table 5
    assert studentized_range.ppf(0.95, 4, np.inf) / np.sqrt(2) == pytest.approx(2.569, abs=5e-4)


def test_costs_are_of_one_device(record, results):
    records = [record(method=m, **cost(timing={"train_seconds": s})) for m, s in (("ssf", 60.0), ("lora", 120.0))]
    records += [record(method="bias", **cost(environment={"name": "GPU B"}))]
    (table,) = figure_tables(build_report(results(*records)))
    points = cost_points(table, table.blocks[0], COSTS["training time of a run, minutes ↓"])
    assert {(point.style.name, point.x) for point in points} == {("SSF", 1), ("LoRA", 2)}


def test_reliability_is_that_of_the_ece(record, results):
    folder = fill(results(record()))
    run = build_report(folder).runs[0]
    saved = read_predictions(run.folder / "predictions.csv", list(run.test.per_class))
    bins = reliability([run])
    ece = sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / sum(each.images for each in bins)
    scored = score(saved.probabilities, saved.labels, list(run.test.per_class), bootstrap=0, confidence=0.9, seed=0)
    assert sum(each.images for each in bins) == 30 and ece == pytest.approx(scored["overall"]["ece"]["value"])


@pytest.mark.parametrize("name", ['a,"b"', "a\nb", "é\udcff", "#1", " "])
def test_reliability_reads_whatever_prepare_may_have_named(record, results, name):
    folder = results(record(classes=("x", 'y, "z"')))
    run = build_report(folder).runs[0]
    add_predictions(run.folder, ["x", 'y, "z"'], ids=[f"{name}{i}" for i in range(30)])
    assert sum(each.images for each in reliability([run])) == 30


@pytest.mark.parametrize(
    "damage", ["", "id,group,label\n", "id,group,label,p_nv,p_mel,p_bcc\na,a,nv,0.1,0.2,nan\n", "\0"]
)
def test_damaged_files_beside_a_record_show_nothing(record, results, damage):
    run = build_report(results(record())).runs[0]
    for name in ("predictions.csv", "history.jsonl"):
        (run.folder / name).write_text(damage)
    assert reliability([run]) == [] and history(run) == []


def test_only_pictures_are_opened(record, results):
    run = build_report(results(generated(record))).runs[0]
    add_pictures(run.folder)
    assert open_picture(newest_samples(run)).size == (64, 16)
    newest_samples(run).write_bytes(newest_samples(run).read_bytes()[:60])
    assert open_picture(newest_samples(run)) is None


def test_pictures_of_the_untuned_pipeline_stand_beside_the_tuned(record, results):
    run = build_report(results(generated(record))).runs[0]
    add_pictures(run.folder)
    assert untuned_folder(run, [0, 1]) is None
    shutil.copytree(run.folder / "images", base := run.folder / "images-1")
    for folder, adapter in ((run.folder / "images", "abc"), (base, None)):
        (folder / "generation.json").write_text(json.dumps({"adapter_sha256": adapter, "prompts": {"number": 2}}))
    assert untuned_folder(run, [0, 1]) == base and untuned_folder(run, [0, 7]) is None
    (base / "generation.json").write_text(json.dumps({"adapter_sha256": None, "prompts": {"number": 3}}))
    assert untuned_folder(run, [0, 1]) is None
    (base / "generation.json").write_text("[")
    assert untuned_folder(run, [0, 1]) is None


def test_prompts_are_spread_over_different_texts(record, results):
    run = build_report(results(generated(record))).runs[0]
    add_pictures(run.folder, prompts=("a", "a", "b", "c", "d", "a", "e", "f"))
    assert common_prompts([run]) == {0: "a", 3: "c", 6: "e"}


@pytest.mark.parametrize(("inches", "said"), [(0.7, "Bias+\nNorm+\nAttention"), (1.6, "Bias+ Norm+ Attention")])
def test_a_long_name_is_cut_at_plus_signs(inches, said):
    assert heading("Bias+Norm+Attention", inches) == said


# all of them ------------------------------------------------------------------------------------------------------


def everything(record):
    values = {"full": 0.7, "ssf": 0.8, "lora": 0.82, "linear": 0.6}
    several = [
        record(dataset, method, value=value + 0.01 * k, **cost(energy={"train_joules": 3600.0 * (k + 1)}))
        for k, dataset in enumerate(("isic", "smdg"))
        for method, value in values.items()
    ]
    few = [
        record(method=method, fraction=0.1, value=value)
        for method, value in (("full", 0.75), ("ssf", 0.7), ("lora", 0.72))
    ]
    return [*several, *few, generated(record), generated(record, "lora")]


STARTS = {"pdf": b"%PDF-", "png": b"\x89PNG", "svg": b"<?xml"}


def test_every_kind_is_drawn_and_equal_records_give_equal_bytes(record, results):
    folder = fill(results(*everything(record)))
    first, again = ({d.name.partition("-")[0]: d for d in drawings(build_report(folder))} for _ in range(2))
    assert set(first) == {"fractions", "parameters", "cost", "ranks", "curves", "confusion", "reliability", "samples"}
    for kind, drawing in first.items():
        assert drawing.encoded("svg") == again[kind].encoded("svg"), kind
    encoded = first["reliability"].encoded(*STARTS)
    assert encoded == again["reliability"].encoded(*STARTS)
    for data, start in zip(encoded, STARTS.values(), strict=True):
        assert data.startswith(start) and b"CreationDate" not in data and b"Software" not in data


def test_figures_are_written_as_pdf_and_png(record, results, tmp_path):
    written = write_figures(build_report(results(record())), tmp_path)
    assert [path.name for path in written] == ["confusion-vit-ham10000.pdf", "confusion-vit-ham10000.png"]
    assert all(path.read_bytes().startswith(STARTS[path.suffix[1:]]) for path in written)


def test_captions_name_crossovers_and_the_ranks_power(record, results):
    found = {drawing.name: drawing.caption for drawing in drawings(build_report(fill(results(*everything(record)))))}
    assert "Crossovers with Full FT: LoRA at 16 %, SSF at 22 %." in found["fractions-vit-ham10000"]
    assert "over 2 datasets" in found["ranks-vit"] and "no two methods are further apart" in found["ranks-vit"]


def test_a_caption_on_crossovers_names_what_is_crossed(record, results):
    def caption(*curves):
        runs = [
            record(m, fraction=f, value=v, **more)
            for m, more, *values in curves
            for f, v in zip((0.1, 1), values, strict=True)
        ]
        folder = results(*runs)
        (found,) = [
            drawing.caption for drawing in drawings(build_report(folder)) if drawing.name.startswith("fractions")
        ]
        shutil.rmtree(folder)
        return found

    record = partial(record, "isic")
    ssf, full, once = (
        ("ssf", {}, 0.6, 0.7),
        ("full", {}, 0.5, 0.9),
        ("full", {"recipe": {"train": {"lr": 1.0}}}, 0.4, 0.6),
    )
    assert "No curve of full fine-tuning to cross." in caption(ssf, ("lora", {}, 0.5, 0.8))
    assert "Crossovers with Full FT: SSF at 22 %." in caption(ssf, full)
    assert "No curve crosses that of Full FT." in caption(ssf, ("full", {}, 0.5, 0.6))
    assert "Crossovers with Full FT (lr 0.001): SSF at 22 %." in caption(ssf, full, once)


def test_demo_and_real_results_are_in_figures_of_their_own(record, results):
    records = [record(method=m, demo=demo) for m in ("ssf", "lora") for demo in (True, False)]
    tables = figure_tables(build_report(results(*records)))
    assert [table.demo for table in tables] == [False, True]
    assert all(run.demo == table.demo for table in tables for run in table.runs)
    shown = drawings(build_report(results(*records)))
    assert all(d.name.startswith("demo-") == d.demo == d.title.startswith("DEMO") for d in shown)
    assert {d.demo for d in shown} == {False, True}


def test_names_from_data_are_only_text(record, results):
    names = {"title": EVIL, "method_title": EVIL, "backbone_title": f"_{EVIL}", "classes": ("a", EVIL)}
    folder = results(*(record(seed=s, fraction=f, **names, **cost()) for s in (0, 1) for f in (0.5, 1.0)),
                     record(method="full", value=0.5, **{**names, "method_title": "_hidden"}, **cost()))  # fmt: skip
    for path in folder.rglob("record.json"):
        add_predictions(path.parent, list(names["classes"]))
    shown = drawings(build_report(folder))
    assert len(shown) > 4 and all(drawing.name.replace("-", "").isalnum() for drawing in shown)
    for drawing in shown:
        (svg,) = drawing.encoded("svg")  # a formula that is none would stop it
        assert not [element.tag for element in ElementTree.fromstring(svg).iter() if "script" in str(element.tag)]


def test_runs_without_results_give_no_figure(record, results):
    assert drawings(build_report(results(record(status="failed"), record(method="lora", status="running")))) == []


def test_too_many_rows_are_named(record, results):
    report = build_report(results(*(record(f"set{i}") for i in range(14))))
    assert "of 2 more rows" in not_drawn(report)
    assert sum(drawing.name.startswith("confusion") for drawing in drawings(report)) == 12
