import subprocess
import sys
from pathlib import Path

import pytest

from medpeft_cli.demo.overlay import MOST_EPOCHS, demo_overlay
from medpeft_cli.recipe.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(backbone="resnet50.a1_in1k", method="ssf", data=(), **backbone_fields):
    return {
        "data": {"card": "isic", **dict(data)},
        "backbone": {"name": backbone, **backbone_fields},
        "method": {"name": method},
    }


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "densenet121", "mobilenetv2_100", "convnext_tiny", "demo_resnet"])
def test_a_cnn_becomes_the_bundled_cnn(name):
    assert demo_overlay(recipe(name))["backbone"]["name"] == "demo_resnet"


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "deit3_small_patch16_224",
        "swin_tiny",
        "beit_base",
        "eva02_tiny",
        "hf-hub:x/ViT-B",
        "demo_vit",
    ],
)
def test_a_transformer_becomes_the_bundled_vit(name):
    assert demo_overlay(recipe(name))["backbone"]["name"] == "demo_vit"


def test_random_weights_stay_random_and_foreign_ones_become_the_bundled():
    assert demo_overlay(recipe(weights="random"))["backbone"]["weights"] == "random"
    assert demo_overlay(recipe(weights="mine.pth"))["backbone"]["weights"] == "pretrained"


def test_methods_that_move_pre_trained_weights_learn_slower():
    rate = {name: demo_overlay(recipe(method=name))["train"]["lr"] for name in ("full", "attention", "ssf", "linear")}
    assert rate["full"] == rate["attention"] < rate["ssf"] == rate["linear"]


@pytest.mark.parametrize("data", [{"fraction": 0.01}, {"k_shot": 5}])
def test_few_pictures_get_more_epochs(data):
    assert (
        demo_overlay(recipe(data=data.items()))["train"]["epochs"]
        == MOST_EPOCHS
        > demo_overlay(recipe())["train"]["epochs"]
    )


@pytest.mark.parametrize("name", ["isic_ssf", "isic_tsa", "pneumonia_full"])
def test_a_recipe_is_valid_with_the_demo_laid_over_it(name):
    loaded = load_recipe(RECIPES / f"{name}.yaml", demo=True).recipe
    assert loaded.demo
    assert loaded.data.root == Path("data/demo") / name.partition("_")[0]
    assert loaded.backbone.name == ("demo_resnet" if name.endswith("tsa") else "demo_vit")
    assert loaded.method.name == name.partition("_")[2]


def test_a_pipeline_becomes_the_bundled_one():
    loaded = load_recipe(RECIPES / "mimic_bias.yaml", ["pipeline.name=mine", "train.steps=5"], demo=True).recipe
    assert loaded.demo
    assert loaded.pipeline.name == "demo_sd" and loaded.pipeline.size is None
    assert loaded.data.root == Path("data/demo/mimic_cxr")
    assert (loaded.train.steps, loaded.train.precision) == (5, "float32")
    assert (loaded.evaluate.encoder, loaded.evaluate.clip) == ("demo", "demo")


def test_what_the_user_sets_wins_over_the_demo():
    loaded = load_recipe(RECIPES / "isic_ssf.yaml", ["train.epochs=2"], demo=True).recipe
    assert loaded.train.epochs == 2


def test_the_overlay_imports_no_torch():
    code = "import sys, medpeft_cli.demo.overlay; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
