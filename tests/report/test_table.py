"""The pivot: means, spreads, marks, ranks, and what must never be mixed."""

import json
import statistics

import pytest
from scipy.stats import rankdata

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.report import Question, build_report
from medpeft_cli.report.dimensions import chosen
from medpeft_cli.report.ranks import TIES, marks, ranks
from medpeft_cli.report.records import parse_record
from medpeft_cli.report.table import TableSpec, pivot
from medpeft_cli.report.text import notes, protocol

# Table 3 of the paper, supervised ViT Base, Large and Huge, with its printed combined average ranks
PAPER_METHODS = ("full", "linear", "attention", "bias", "lora", "ssf", "adaptformer", "norm")
PAPER_TABLE_3 = {
    "vit_base": {
        "breastus": (0.82, 0.79, 0.93, 0.97, 0.94, 0.95, 0.95, 0.88),
        "fitzpatrick": (0.80, 0.74, 0.76, 0.71, 0.82, 0.77, 0.72, 0.73),
        "isic": (0.91, 0.72, 0.86, 0.87, 0.91, 0.88, 0.76, 0.85),
        "smdg": (0.80, 0.60, 0.84, 0.66, 0.86, 0.85, 0.60, 0.80),
        "pneumonia": (0.87, 0.86, 0.85, 0.87, 0.86, 0.88, 0.83, 0.87),
    },
    "vit_large": {
        "breastus": (0.84, 0.73, 0.86, 0.95, 0.93, 0.92, 0.95, 0.88),
        "fitzpatrick": (0.82, 0.74, 0.77, 0.74, 0.82, 0.80, 0.72, 0.78),
        "isic": (0.90, 0.82, 0.88, 0.86, 0.89, 0.88, 0.74, 0.87),
        "smdg": (0.81, 0.77, 0.84, 0.83, 0.83, 0.87, 0.63, 0.85),
        "pneumonia": (0.80, 0.78, 0.81, 0.80, 0.82, 0.80, 0.78, 0.80),
    },
    "vit_huge": {
        "breastus": (0.92, 0.67, 0.89, 0.96, 0.86, 0.96, 0.93, 0.92),
        "fitzpatrick": (0.69, 0.72, 0.70, 0.72, 0.78, 0.73, 0.72, 0.72),
        "isic": (0.74, 0.74, 0.77, 0.71, 0.87, 0.70, 0.73, 0.72),
        "smdg": (0.73, 0.64, 0.72, 0.64, 0.83, 0.67, 0.64, 0.67),
        "pneumonia": (0.78, 0.76, 0.78, 0.79, 0.81, 0.79, 0.78, 0.78),
    },
}
PAPER_MEANS = {
    "vit_base": (0.84, 0.74, 0.85, 0.82, 0.88, 0.87, 0.77, 0.83),
    "vit_large": (0.83, 0.77, 0.83, 0.84, 0.86, 0.85, 0.76, 0.84),
    "vit_huge": (0.77, 0.71, 0.77, 0.76, 0.83, 0.77, 0.76, 0.76),
}
PAPER_RANKS = (4.1, 6.7, 4.5, 4.5, 2.4, 3.1, 6.0, 4.7)


@pytest.fixture
def tables(record):
    """Pivot records made by hand, without a folder."""

    def build(*records, **spec):
        where = spec.pop("where", {})
        return pivot(chosen([parse_record(json.dumps(each)) for each in records], where), TableSpec(**spec))

    return build


def one(cells, i=0, j=0):
    return cells.cells[i][j]


def test_a_cell_is_mean_and_sample_deviation_over_seeds(record, tables):
    values = [0.81, 0.84, 0.80]
    (table,) = tables(*(record(seed=seed, value=value) for seed, value in enumerate(values)))
    cell = one(table)
    assert cell.values == tuple(values)
    assert cell.mean == pytest.approx(statistics.mean(values)) and cell.sd == pytest.approx(statistics.stdev(values))
    assert cell.interval is None


def test_one_seed_has_its_bootstrap_interval_and_no_deviation(record, tables):
    (table,) = tables(record(value=0.8))
    assert one(table).sd is None and one(table).interval == pytest.approx((0.76, 0.84))


def test_the_papers_table_3_gives_back_its_means_and_ranks(record, tables):
    records = [
        record(dataset, method, value=value, backbone=backbone, parameters={"total": size, "method": 1, "head": 1})
        for size, (backbone, rows) in enumerate(PAPER_TABLE_3.items())
        for dataset, row in rows.items()
        for method, value in zip(PAPER_METHODS, row, strict=True)
    ]
    (table,) = tables(*records)
    titles = [
        "Full FT",
        "Linear probing",
        "Attention tuning",
        "BitFit",
        "LoRA",
        "SSF",
        "AdaptFormer",
        "LayerNorm tuning",
    ]
    assert [column["method"] for column in table.columns] == titles
    assert [row["dataset"] for row in table.rows[:5]] == ["BreastUS", "FitzPatrick", "HAM10000", "SMDG", "Pneumonia"]
    assert [table.rows[block.rows[0]]["backbone"] for block in table.blocks] == list(PAPER_TABLE_3)
    for block, printed in zip(table.blocks, PAPER_MEANS.values(), strict=True):
        assert block.means == pytest.approx(printed, abs=0.0051)  # printed with two digits
    ranks = [statistics.mean(block.ranks[j] for block in table.blocks) for j in range(8)]
    assert ranks == pytest.approx(PAPER_RANKS, abs=0.051)  # printed with one digit


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("values", [[3, 1, 2], [1, 1, 1], [2, 1, 2, 1, 3], [0.5]])
def test_ranks_equal_scipy(values, ties):
    assert ranks(values, ties) == list(rankdata(values, method=ties))


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([0.8, 0.9, 0.7], True, ["second", "best", ""]),
        ([0.8, 0.9, 0.7], False, ["second", "", "best"]),
        ([0.9004, 0.8996, 0.85, 0.8501], True, ["best", "best", "second", "second"]),  # 0.900, 0.900, 0.850, 0.850
        ([0.9, None, 0.8], True, ["best", "", "second"]),
        ([0.9, None], True, ["", ""]),
        ([0.9, 0.9], True, ["", ""]),
    ],
)
def test_marks_go_by_the_printed_digits(values, higher, expected):
    assert marks(values, 3, higher) == expected


def test_lower_is_better_where_the_metric_says_so(record, tables):
    (table,) = tables(record(method="ssf", value=0.9), record(method="lora", value=0.7), metric="ece")
    assert {column["method"]: cell.mark for column, cell in zip(table.columns, table.cells[0], strict=True)} == {
        "LoRA": "second", "SSF": "best",
    }  # fmt: skip
    assert [cell.rank for cell in table.cells[0]] == [2, 1]


def test_demo_revision_and_family_are_tables_of_their_own(record, tables):
    found = tables(
        record(value=0.5, demo=True),
        record(value=0.8),
        record(value=0.7, revision=2),
        record(family="cnn", method="tsa"),
    )
    assert [(table.demo, table.results_revision, table.family) for table in found] == [
        (False, 2, "vit"), (False, 1, "cnn"), (False, 1, "vit"), (True, 1, "vit"),
    ]  # fmt: skip
    assert all(len(one(table).values) == 1 for table in found)


@pytest.mark.parametrize(
    "other", [{"manifest": "b" * 64}, {"card": {"name": "isic", "title": "HAM10000", "sha256": "d" * 64}}]
)
def test_versions_of_a_dataset_are_rows_of_their_own_without_mean_or_rank(record, tables, other):
    both = [
        record(method=method, seed=seed, **extra) for method in ("ssf", "lora") for seed, extra in ((0, {}), (1, other))
    ]
    (table,) = tables(*both)
    assert len(table.rows) == 2 and len({row["dataset"] for row in table.rows}) == 2
    assert all(row["dataset"].startswith("HAM10000 (data ") for row in table.rows)
    assert all(len(cell.values) == 1 for cells in table.cells for cell in cells)
    assert table.blocks[0].means == (None, None) and table.blocks[0].ranks == (None, None)


def test_versions_of_weights_are_rows_of_their_own(record, tables):
    old, new = ({"weights": {"source": "pretrained", "sha256": sign * 64}} for sign in "ab")
    (table,) = tables(record(**old), record(seed=1, **new), record(method="lora", **new), record("smdg", **old))
    assert sorted({row["backbone"] for row in table.rows}) == [
        "vit_base_patch16_224 (weights aaaaaaaa)", "vit_base_patch16_224 (weights bbbbbbbb)",
    ]  # fmt: skip
    assert all(len(cell.values) <= 1 for cells in table.cells for cell in cells)
    assert {column["variant"] for column in table.columns} == {""}


@pytest.mark.parametrize(
    ("rows", "other"),
    [
        (("backbone",), {"manifest": "b" * 64}),
        (("dataset",), {"weights": {"source": "pretrained", "sha256": "b" * 64}}),
    ],
)
def test_versions_never_meet_in_a_cell_whatever_the_rows(record, tables, rows, other):
    weights = {"source": "pretrained", "sha256": "a" * 64}
    (table,) = tables(record(weights=weights), record(seed=1, **({"weights": weights} | other)), rows=rows)
    assert [[len(cell.values) for cell in cells] for cells in table.cells] == [[1], [1]]
    assert len({tuple(row.values()) for row in table.rows}) == 2


def test_what_makes_a_setting_is_a_row_though_nobody_asked(record, tables):
    """Else full fine-tuning of one backbone on a tenth of the images would lose against SSF of another on all."""
    full, ssf = record(method="full", backbone="vit_b", fraction=0.1), record(method="ssf", backbone="vit_l", value=0.9)
    (table,) = tables(full, ssf, rows=("dataset",))
    assert [(row["backbone"], row["fraction"]) for row in table.rows] == [("vit_b", "10 %"), ("vit_l", "100 %")]
    assert {cell.mark for cells in table.cells for cell in cells} == {""}
    assert (
        "Not asked for as rows, but not equal in all runs, and so rows too: backbone, fraction" in notes(table, [1])[0]
    )
    (table,) = tables(full, ssf, rows=("dataset",), columns=("seed",))
    assert table.added == ("backbone", "fraction", "method")
    (table,) = tables(full, ssf, rows=("dataset", "fraction", "backbone.name"))
    assert table.added == ()  # a field of the recipe says as much


@pytest.mark.parametrize("rows", [("dataset", "backbone"), ("fraction",)])
@pytest.mark.parametrize(
    ("unknown", "label"),
    [({"data": None}, "HAM10000 (data unknown)"), ({"weights": None}, "vit_base_patch16_224 (weights unknown)")],
)
def test_a_score_of_unknown_data_or_weights_is_never_averaged_with_known_ones(record, tables, unknown, label, rows):
    weights = {"weights": {"source": "pretrained", "sha256": "a" * 64}}
    failed = record(seed=2, status="failed", **(weights | unknown))
    (table,) = tables(record(**weights), record(seed=1, **(weights | unknown)), failed, rows=rows)
    assert sorted(len(cell.values) for cells in table.cells for cell in cells) == [1, 1]
    assert any(label in row.values() for row in table.rows)
    (known,) = [cells[0] for row, cells in zip(table.rows, table.cells, strict=True) if label not in row.values()]
    assert len(known.others) == 1  # a run that failed before it read them is no version


def test_recipes_that_differ_are_columns_of_their_own_that_say_how(record, tables):
    (table,) = tables(
        record(method="lora", recipe={"method": {"rank": 16}}),
        record(method="lora", recipe={"method": {"rank": 4}}),
        record(method="lora", recipe={"method": {"rank": 4}}, seed=1),
        record(method="lora", recipe={"method": {"rank": 4}}, dataset="smdg"),
        record(method="ssf", recipe={"train": {"lr": 0.01}}),
    )
    assert [(column["method"], column["variant"]) for column in table.columns] == [
        ("LoRA", "rank 4"), ("LoRA", "rank 16"), ("SSF", ""),
    ]  # fmt: skip
    assert [len(cell.values) for cell in table.cells[0]] == [2, 1, 1]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("evaluate", ({"bootstrap": 500}, {"bootstrap": 1000})),
        ("data", ({"card": "my/isic.yaml"}, {"card": "isic"})),
        ("backbone", ({"weights": "/a/w.safetensors"}, {"weights": "b/w.safetensors"})),
    ],
)
def test_what_does_not_count_for_the_identity_never_parts_seeds(record, tables, section, values):
    same = [record(seed=seed, cell="c", recipe={section: value}) for seed, value in enumerate(values)]
    (table,) = tables(*same, record(cell="d", recipe={"train": {"lr": 0.002}, section: values[0]}))
    assert [column["variant"] for column in table.columns] == ["lr 0.001", "lr 0.002"]
    assert [len(cell.values) for cell in table.cells[0]] == [2, 1]


def test_recipes_that_differ_in_no_field_are_told_apart_by_their_hash(record, tables):
    (table,) = tables(record(cell="11111111"), record(cell="22222222", seed=1, identity="x"))
    assert [column["variant"] for column in table.columns] == ["recipe 11111111", "recipe 22222222"]


def test_random_weights_are_another_backbone(record, tables):
    (table,) = tables(record(), record(recipe={"backbone": {"weights": "random"}}))
    assert [row["backbone"] for row in table.rows] == ["vit_base_patch16_224", "vit_base_patch16_224 (random)"]


def test_fractions_are_in_order_and_have_no_mean(record, tables):
    (table,) = tables(
        *(record(method=m, fraction=f) for f in (1.0, 0.05, 0.001, 0.5) for m in ("ssf", "lora")),
        record(recipe={"data": {"k_shot": 5}}),
    )
    assert [row["fraction"] for row in table.rows] == ["5 per class", "0.1 %", "5 %", "50 %", "100 %"]
    assert table.blocks[0].rows == (0, 1, 2, 3, 4) and set(table.blocks[0].means) == {None}


def test_what_has_no_value_keeps_its_state(record, tables):
    (table,) = tables(
        record(method="full"), record(method="linear", status="failed"), record(method="attention", status="running"),
        record(method="bias", status="cancelled"), record(method="lora", status="trained"), record(method="ssf", value=None),
        record(method="norm", dataset="smdg"), record(method="full", seed=1, status="failed"),
    )  # fmt: skip
    states = dict(
        zip((column["method"] for column in table.columns), (cell.state for cell in table.cells[0]), strict=True)
    )
    assert states == {
        "Full FT": "", "Linear probing": "failed", "Attention tuning": "running", "BitFit": "cancelled",
        "LoRA": "not scored", "SSF": "undefined", "LayerNorm tuning": "missing",
    }  # fmt: skip
    assert len(one(table).values) == 1 and len(one(table).others) == 1


def test_mean_needs_every_dataset_and_rank_only_complete_rows(record, tables):
    datasets = ("breastus", "isic", "smdg")
    records = [record(d, m, value=v) for d in datasets for m, v in (("full", 0.7), ("ssf", 0.8))]
    records += [record(d, "lora", value=0.9) for d in datasets[:2]]
    (table,) = tables(*records)
    (block,) = table.blocks
    full, lora, ssf = range(3)
    assert [column["method"] for column in table.columns] == ["Full FT", "LoRA", "SSF"]
    assert (
        block.means[full] == pytest.approx(0.7) and block.means[lora] is None and block.means[ssf] == pytest.approx(0.8)
    )
    assert block.ranks == (3, 1, 2) and block.ranked_rows == 2
    assert block.mean_marks == ("second", "", "best") and block.rank_marks == ("", "best", "second")


def test_ranks_that_an_odd_run_takes_away_are_named(record, tables):
    datasets = ("breastus", "isic", "smdg")
    whole = [record(d, m, value=v) for d in datasets for m, v in (("full", 0.7), ("ssf", 0.8))]
    (table,) = tables(*whole, record("isic", "norm"))
    assert table.blocks[0].ranked_rows == 0
    said = "No average rank: 1 of 3 datasets have a value of every method; all 3 have, without LayerNorm tuning"
    assert said in notes(table, [1])
    (table,) = tables(record("isic", "full"), record("smdg", "ssf"), record("isic", "lora"))
    assert "No average rank: 0 of 2 datasets have a value of every method" in notes(table, [1])
    for others in ([], [record("isic", manifest="b" * 64)], [record("isic", "full", fraction=0.1)]):
        (table,) = tables(*whole, *others)
        assert not any("No average rank" in note for note in notes(table, [1]))


def test_parameters_are_of_method_and_head_with_their_range(record, tables):
    (table,) = tables(record("isic", classes=("a", "b")), record("smdg", classes=("a", "b", "c")))
    assert table.blocks[0].parameters == (((203_520,), (1538, 2307)),)


def test_where_filters_and_other_rows_are_possible(record, tables):
    records = [record(d, backbone=b) for d in ("isic", "smdg") for b in ("vit_a", "vit_b")]
    (table,) = tables(*records, rows=("backbone",), where={"dataset": ["SMDG"]})
    assert [row["backbone"] for row in table.rows] == ["vit_a", "vit_b"] and len(one(table).values) == 1
    assert tables(*records, where={"dataset": ["nothing"]}) == []


def test_a_run_that_failed_early_is_listed_apart(record, results):
    early = record(
        seed=1,
        status="failed",
        error="no data",
        family=None,
        backbone_title=None,
        card=None,
        data=None,
        parameters=None,
    )
    report = build_report(results(record(), early))
    assert [run.seed for run in report.unplaced] == [1] and len(one(report.tables[0]).values) == 1


def test_an_empty_folder_and_an_unknown_metric_are_refused(record, results, tmp_path):
    with pytest.raises(DataError, match=r"no record\.json under it"):
        build_report(tmp_path)
    (tmp_path / "record.json").write_text('{"schema_version": 1,')
    with pytest.raises(DataError, match=r"no record\.json under it can be used\n  record\.json: half written"):
        build_report(tmp_path)
    (tmp_path / "record.json").unlink()
    with pytest.raises(RecipeError) as caught:
        build_report(results(record()), Question("f1_makro"))
    assert "did you mean 'f1_macro'" in caught.value.hint


def pictures(encoder="xrv-densenet121", guidance=4.0, **changes):
    """What a record of generated pictures says beyond one of classification."""
    protocol = {"encoder": {"name": encoder, "sha256": 64 * encoder[0]}, "images": {"real": 1000, "generated": 1000}}
    made = {"steps": 75, "guidance": guidance, "scheduler": "the pipeline's own", "size_pixels": 224}
    scores = {"n": 1000, "overall": {"fid": {"value": 20.0}}, "protocol": protocol, "generation": made}
    return {"family": "unet", "metrics": {"test": scores}} | changes


@pytest.mark.parametrize("other", [{"encoder": "inception"}, {"guidance": 7.0}])
def test_pictures_that_were_made_or_compared_otherwise_share_no_table(tables, record, other):
    usual = [record(method=method, seed=seed, **pictures()) for method in ("bias", "norm") for seed in (0, 1)]
    odd = record(method="norm", seed=2, **pictures(**other))
    failed = record(method="lora", status="failed", **pictures(metrics=None))
    built = sorted(tables(*usual, odd, failed, metric="fid"), key=lambda table: -len(table.columns))
    assert [[cell.values for cell in table.cells[0]] for table in built] == [[(20.0,) * 2, (20.0,) * 2, ()], [(20.0,)]]
    said = [" ".join(protocol(table)) for table in built]
    assert "xrv-densenet121 (xxxxxxxx)" in said[0] and "guidance 4, 75 steps" in said[0]
    assert said[0] != said[1] and ("inception" in said[1] or "guidance 7" in said[1])
