"""A grid is its recipes times its matrix; the paper's grids are counted, and everything wrong is said with its place."""

import shlex
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from medpeft_cli.cli import app
from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.grid import expand
from medpeft_cli.recipe.identity import run_id
from medpeft_cli.recipe.load import load_recipe, read_files, read_overrides, resolve
from medpeft_cli.recipe.source import Document, dump_value, parse_value

ROOT = Path(__file__).parents[2]
FINETUNE = get_command(app).commands["finetune"]
COUNTS = {"table2": 90, "table3": 360, "table4": 96, "table5": 80, "figure1": 144}


@pytest.fixture(scope="module")
def paper():
    return {path.stem: expand(path) for path in sorted((ROOT / "recipes/paper").glob("*.yaml"))}


def test_every_grid_is_expanded_and_has_the_papers_number_of_runs(paper):
    assert {name: len(cells) for name, cells in paper.items()} == COUNTS | {"all": 752}


def test_runs_that_two_tables_share_are_one_run(paper):
    assert Counter(name for cell in paper["all"] for name in cell.grids) == COUNTS
    shared = [cell for cell in paper["all"] if len(cell.grids) > 1]
    assert len(shared) == 18 == sum(COUNTS.values()) - 752
    assert {(cell.grids, cell.recipe.data.fraction) for cell in shared} == {(("table3", "figure1"), 1.0)}
    assert len({cell.run for cell in paper["all"]}) == 752


@pytest.mark.parametrize(
    ("name", "datasets", "models", "methods", "fractions", "seeds"),
    [
        ("table2", 5, {"resnet50.a1_in1k"}, "full linear tsa norm bias ssf", 1, 3),
        ("table3", 5, {"vit_base_patch16_224.augreg_in21k", "vit_large_patch16_224.augreg_in21k",
                       "vit_huge_patch14_224.orig_in21k"}, "full linear attention bias lora ssf adaptformer norm", 1, 3),
        ("table4", 1, {"stable-diffusion-v1-5/stable-diffusion-v1-5"},
         "full attention bias norm bias_norm_attention lora svdiff difffit", 3, 4),
        ("table5", 5, {"vit_base_patch16_224.mae", "vit_base_patch16_clip_224.openai"},
         "full linear attention bias lora ssf adaptformer norm", 1, 1),
        ("figure1", 1, {"vit_base_patch16_224.augreg_in21k", "vit_large_patch16_224.augreg_in21k"},
         "full bias lora", 8, 3),
    ],
)  # fmt: skip
def test_a_table_has_the_papers_rows_and_columns(paper, name, datasets, models, methods, fractions, seeds):
    recipes = [cell.recipe for cell in paper[name]]
    assert len({recipe.data.card for recipe in recipes}) == datasets
    assert {recipe.pretrained_name for recipe in recipes} == models
    assert {recipe.method.name for recipe in recipes} == set(methods.split())
    assert len({recipe.data.fraction for recipe in recipes}) == fractions
    assert {recipe.seed for recipe in recipes} == set(range(seeds))


def run_of(command, read=read_files):
    """The run that a printed line makes, as the command line takes it and `load_recipe` resolves it."""
    words = FINETUNE.make_context("finetune", shlex.split(command)[2:]).params
    seed = [] if words["seed"] is None else [f"seed={words['seed']}"]
    overlay = read_overrides([*(words["overrides"] or []), *seed])
    return run_id(resolve(read(words["recipe"]), overlay, demo=words["demo"])[0])


def test_the_printed_command_of_every_cell_is_the_cell(paper, monkeypatch):
    monkeypatch.chdir(ROOT)
    read = cache(read_files)
    assert [run_of(cell.command(Path("out")), read) for cell in paper["all"]] == [cell.run for cell in paper["all"]]
    cell = expand(Path("recipes/paper/figure1.yaml"))[0]
    assert cell.command(Path("results")) == (
        "medpeft finetune recipes/isic_full.yaml --set backbone.name=vit_base_patch16_224.augreg_in21k "
        "--set data.fraction=0.01 --seed 0"
    )


def test_with_the_demo_cells_that_differ_only_in_their_backbone_are_one_run():
    cells = expand(ROOT / "recipes/paper/table5.yaml", demo=True)
    assert len(cells) == 40
    assert {cell.recipe.pretrained_name for cell in cells} == {"demo_vit"}
    assert cells[0].command(Path("my results")).endswith("--seed 0 --demo --results 'my results'")


def test_set_goes_over_every_cell_and_into_its_command(paper):
    weights = "evaluate.encoder_weights=my encoder.pt"
    cells = expand(ROOT / "recipes/paper/table4.yaml", [weights, "train.steps=20"])
    assert len(cells) == 96 and {cell.recipe.evaluate.encoder_weights for cell in cells} == {"my encoder.pt"}
    assert not {cell.run for cell in cells} & {cell.run for cell in paper["table4"]}  # other steps, other runs
    assert f"--set '{weights}' --set train.steps=20" in cells[-1].command(Path("results"))
    assert run_of(cells[-1].command(Path("results"))) == cells[-1].run


# --- grids of one's own --------------------------------------------------------------------------------------------


@pytest.fixture
def grid(write):
    """Return grid(text) -> cells of a grid beside a.yaml (lora) and b.yaml (ssf)."""
    write("base: base.yaml\n", "a.yaml")
    write("base: base.yaml\nmethod: {name: ssf}\n", "b.yaml")
    return lambda text: expand(write(text, "grid.yaml"))


def complaint(grid, text):
    with pytest.raises(RecipeError) as error:
        grid(text)
    assert error.value.hint
    return error.value.message.splitlines()


def test_the_last_field_varies_fastest(grid):
    cells = grid("recipes: ['{a,b}.yaml']\nmatrix: {train.lr: [1e-3, 2e-3], seed: [0, 1]}\n")
    found = [(cell.path.name, cell.recipe.train.lr, cell.recipe.seed) for cell in cells]
    assert found == [(p, lr, s) for p in ("a.yaml", "b.yaml") for lr in (1e-3, 2e-3) for s in (0, 1)]


@pytest.mark.parametrize(
    "value", [1e-5, 0.1, 3, True, None, "no", "a: b", "é\n'x'", [0.9, 0.99], {"name": "lora", "rank": 2, "x": "1e-3"}]
)
def test_a_setting_reads_back_as_it_was(value):
    text = dump_value(value)
    assert "\n" not in text
    assert parse_value(text, ("x",), "--set", Document({})) == value


def test_a_map_in_the_matrix_merges_as_in_a_recipe(grid):
    cells = grid("recipes: [a.yaml]\nmatrix: {method: [{rank: 2}, {name: ssf}]}\n")
    assert [cell.recipe.method.name for cell in cells] == ["lora", "ssf"]
    assert cells[0].recipe.method.parameters["rank"] == 2
    for cell in cells:
        assert load_recipe(cell.path, cell.settings).recipe == cell.recipe


def test_excluded_cells_are_left_out(grid):
    text = "recipes: ['{a,b}.yaml']\nmatrix: {seed: [0, 1, 2]}\nexclude:\n- {method.name: lora, seed: [1, 2]}\n"
    assert [(cell.recipe.method.name, cell.recipe.seed) for cell in grid(text)] == [
        ("lora", 0), ("ssf", 0), ("ssf", 1), ("ssf", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipe: [a.yaml]\n", ["grid.yaml:1:1: recipes: got nothing, wanted a list of texts",
                                "grid.yaml:1:1: recipe: no such field, got 'recipe', did you mean 'recipes'?"]),
        ("recipes: []\n", ["grid.yaml:1:10: recipes: got [], wanted a list of texts"]),
        ("recipes: [a.yaml, c.yaml]\n", ["grid.yaml:1:19: recipes.1: no such file, got 'c.yaml'"]),
        ("recipes: [a.yaml, a.yaml]\n", ["grid.yaml:1:19: recipes.1: named twice, 'a.yaml'"]),
        ("recipes: [a.yaml]\nmatrix: {seed: []}\n", ["grid.yaml:2:16: matrix.seed: got [], wanted at least one"]),
        ("recipes: [a.yaml]\nmatrix: {seed: 3}\n", ["grid.yaml:2:16: matrix.seed: got 3, wanted a list"]),
        ("recipes: [a.yaml]\nmatrix: {train..lr: [3]}\n", ["grid.yaml:2:10: matrix.train..lr: wanted a field"]),
        ("recipes: ['{a,b}.yaml']\nmatrix:\n  train.lr: [1e-3, fast]\n  seed: [0, 1]\n",
         ["grid.yaml:3:20: train.lr: got 'fast', wanted a number > 0"]),
        ("recipes: [a.yaml]\nmatrix: {train.epoch: [3]}\n", ["grid.yaml:2:10: train.epoch: no such field"]),
        ("recipes: ['{a,b}.yaml']\nmatrix: {method.rank: [3]}\n", ["grid.yaml:2:10: method.rank: no such field"]),
        ("recipes: [a.yaml]\nmatrix: {evaluate.bootstrap: [0, 9]}\n", ["grid.yaml: two cells are one run, vit_base-"]),
        ("recipes: [a.yaml]\nexclude: [{seed: 0}]\n", ["grid.yaml:2:10: exclude: no cell is left"]),
        ("recipes: [a.yaml]\nexclude: [{seed: 0}, {sead: 0}]\n", ["grid.yaml:2:22: exclude.1: no cell of the grid"]),
        ("recipes: [a.yaml]\nseed: 1\nseed: 2\n", ["grid.yaml:2:1: seed: no such field", "grid.yaml:3:1: seed: written"]),
        ("grids: [grid.yaml]\n", ["grid.yaml:1:9: grids: goes round in a circle, grid.yaml → grid.yaml"]),
        ("grids: [none.yaml]\n", ["grid.yaml:1:9: grids.0: no such file"]),
        ("grids: [a.yaml]\nmatrix: {}\n", ["grid.yaml:2:1: matrix: no such field"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once_and_with_its_place(grid, text, expected):
    lines = complaint(grid, text)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line


def test_set_is_laid_over_the_matrix_as_on_the_printed_line(grid, write):
    path = write("recipes: ['{a,b}.yaml']\nmatrix: {train.epochs: [2], seed: [0, 1]}\n", "grid.yaml")
    cells = expand(path, ["train.batch_size=64", "train={lr: 0.5}", "train.weight_decay=0.1"])
    assert {(cell.recipe.train.lr, cell.recipe.train.weight_decay) for cell in cells} == {(0.5, 0.1)}
    assert [run_of(cell.command(Path("results"))) for cell in cells] == [cell.run for cell in cells]


def test_what_is_wrong_with_set_is_said_once(grid, write):
    path = write("recipes: ['{a,b}.yaml']\nmatrix: {seed: [0, 1]}\n", "grid.yaml")
    for setting, said in (
        ("train.lr", "--set train.lr: wanted FIELD=VALUE"),
        ("train.lr=fast", "--set train.lr: got 'fast', wanted a number > 0"),
        ("seed=3", "grid.yaml: two cells are one run, "),
    ):
        with pytest.raises(RecipeError) as error:
            expand(path, [setting])
        lines = error.value.message.splitlines()
        assert lines[0].startswith(said) and len(lines) == (2 if setting == "seed=3" else 1)  # a line for each recipe


def test_a_recipe_that_is_wrong_is_named_once_for_all_its_cells(grid, write):
    write("base: base.yaml\nmethod: {rnak: 3}\n", "c.yaml")
    (line,) = complaint(grid, "recipes: ['{a,c}.yaml']\nmatrix: {seed: [0, 1, 2]}\n")
    assert line.startswith("c.yaml:2:10: method.rnak: no such field")


def test_one_cell_in_two_grids_is_one_run_of_both(write, grid):
    write("recipes: [a.yaml]\nmatrix: {seed: [0, 1]}\n", "one.yaml")
    write("recipes: [a.yaml, b.yaml]\n", "two.yaml")
    cells = grid("grids: [one.yaml, two.yaml]\n")
    assert [cell.grids for cell in cells] == [("one", "two"), ("one",), ("two",)]
