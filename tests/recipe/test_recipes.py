"""Every recipe that is shipped loads, says what it is, and is there as often as the paper asks."""

import re
from itertools import product
from pathlib import Path

import pytest

from medpeft_cli.methods import METHODS
from medpeft_cli.recipe.identity import identity
from medpeft_cli.recipe.load import dump_recipe, load_recipe

ROOT = Path(__file__).parents[2]
DATASETS = ("isic", "breastus", "fitzpatrick", "smdg", "pneumonia")
PAPER_METHODS = ("full", "linear", "tsa", "norm", "bias", "ssf", "attention", "lora", "adaptformer")
PAPER = sorted(ROOT / f"recipes/{dataset}_{method}.yaml" for dataset, method in product(DATASETS, PAPER_METHODS))
UNET_METHODS = ("full", "attention", "bias", "norm", "bias_norm_attention", "lora", "svdiff", "difffit")
IMAGES = sorted(ROOT / f"recipes/mimic_{method}.yaml" for method in UNET_METHODS)
EXTRA = sorted((ROOT / "recipes/extra").glob("*.yaml"))
BASES = sorted((ROOT / "recipes/base").glob("*.yaml"))


def test_there_are_53_recipes_of_the_paper_and_no_stray_files():
    assert (len(PAPER), len(IMAGES)) == (45, 8)
    assert sorted((ROOT / "recipes").glob("*.yaml")) == sorted([*PAPER, *IMAGES])
    assert len(EXTRA) == 12
    cards = set((ROOT / "recipes/extra/cards").glob("*.yaml"))
    grids = set((ROOT / "recipes/paper").glob("*.yaml"))  # counted in test_grid.py
    assert {*PAPER, *IMAGES, *EXTRA, *BASES} == set((ROOT / "recipes").rglob("*.yaml")) - cards - grids


@pytest.mark.parametrize("path", [*PAPER, *IMAGES, *EXTRA], ids=lambda path: path.stem)
def test_a_recipe_loads_and_dumps_and_keeps_its_identity(path, tmp_path):
    recipe = load_recipe(path).recipe
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "dumped.yaml").recipe
    assert again == recipe
    assert identity(again) == identity(recipe)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_is_what_its_name_says(path):
    recipe = load_recipe(path).recipe
    assert f"{recipe.data.card}_{recipe.method.name}" == path.stem
    family = "cnn" if recipe.backbone.name.startswith("resnet50") else "vit"
    assert family in METHODS[recipe.method.name].titles
    assert family == ("cnn" if recipe.method.name == "tsa" else "vit")
    assert (recipe.train.batch_size, recipe.train.epochs) == (512, 30)


@pytest.mark.parametrize("path", [*PAPER, *IMAGES, *EXTRA], ids=lambda path: path.stem)
def test_a_header_names_its_own_file_and_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    name = path.relative_to(ROOT).as_posix()
    assert header[0].startswith(f"# {name} — ")
    assert f"#   medpeft finetune {name}" in header
    commands = [line for line in header if "medpeft finetune" in line]
    assert all(line.split()[3] == name for line in commands)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_header_prints_one_value_for_each_family_the_paper_ran(path):
    text = path.read_text()
    ran = METHODS[path.stem.partition("_")[2]]
    families = {"vit", "cnn"} if ran.baseline else set(ran.in_paper)
    assert len(re.findall(r"0\.\d\d ± \d\.\d on ViT-B \(Table 3\)", text)) == ("vit" in families)
    assert len(re.findall(r"0\.\d\d ± \d\.\d on ResNet-50 \(Table 2\)", text)) == ("cnn" in families)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_a_text_to_image_recipe_is_what_its_name_says(path):
    recipe = load_recipe(path).recipe
    assert (recipe.task, recipe.data.card, f"mimic_{recipe.method.name}") == ("generate", "mimic_cxr", path.stem)
    assert "unet" in METHODS[recipe.method.name].titles
    assert (recipe.train.steps, recipe.sample.prompts, recipe.sample.steps) == (15_000, 1000, 75)
    assert load_recipe(path, ["data.fraction=0.1"]).recipe.data.fraction == 0.1
    assert re.search(r"FID [\d.]+ with 110K pairs, [\d.]+ with 55K, [\d.]+ with 11K \(Table 4\)", path.read_text())


def test_the_cards_that_recipes_name_by_path_are_there():
    paths = [card for path in [*PAPER, *EXTRA] if (card := load_recipe(path).recipe.data.card).endswith(".yaml")]
    assert paths
    assert all((ROOT / card).is_file() for card in paths)


@pytest.mark.parametrize("path", [*PAPER, *IMAGES, *EXTRA], ids=lambda path: path.stem)
def test_a_recipe_has_a_demo_that_is_another_run(path):
    demo = load_recipe(path, demo=True).recipe
    assert demo.demo
    assert demo.pretrained_name in ("demo_vit", "demo_resnet", "demo_sd")
    assert identity(demo) != identity(load_recipe(path).recipe)
