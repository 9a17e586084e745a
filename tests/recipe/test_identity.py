"""A run's name depends on everything that can change its result, and on nothing else."""

import json

import pytest

from medpeft_cli.recipe.identity import INCIDENTAL, cell, identity, run_id
from medpeft_cli.recipe.load import leaves, load_recipe

FULL = """\
task: classify
data: {card: isic, root: data/isic, fraction: 1.0, k_shot: null}
backbone:
  name: vit_base_patch16_224.augreg_in21k
  weights: pretrained
  options: {pad_type: same}
  input: {size: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], interpolation: bicubic, crop_pct: 0.9}
method: {name: ssf, init_std: 0.0}
train: {epochs: 30, lr: 1e-3, clip_norm: 1.0, patience_epochs: 5}
seed: 0
"""

IMAGES = """\
task: generate
data: {card: mimic_cxr, root: data/mimic_cxr, fraction: 1.0, k_shot: null}
pipeline: {name: org/sd, variant: fp16, config: org/sd, size: 224}
method: {name: attention}
train: {schedule: cosine, clip_norm: 1.0, min_snr_gamma: 5.0, ema_decay: 0.99}
sample: {prompts: 10, scheduler: ddim}
evaluate: {clip: demo, encoder_weights: a.pt}
seed: 0
"""

SEARCH = "search: {trials: 3, space: {train.weight_decay: {linear: [0, 1]}}}\n"

# Another admissible value for each field whose type alone does not tell one.
OTHER = {
    "device": "cpu",
    "track": "wandb",
    "search.space.train.weight_decay.linear": [0.0, 0.5],
    "pipeline.size": 512,
    "sample.scheduler": "euler",
    "method.scope": "attention",
    "data.root": "elsewhere",
    "data.k_shot": 5,
    "method.name": "linear",
    "backbone.input.interpolation": "bilinear",
    "backbone.input.mean": [0.4, 0.4, 0.4],
    "backbone.input.std": [0.4, 0.4, 0.4],
    "augment.crop_scale": None,
    "augment.crop_ratio": [0.9, 1.1],
    "train.betas": [0.8, 0.99],
    "train.schedule": "constant",
    "train.precision": "bfloat16",
    "augment.views": 3,
    "train.class_weights": "balanced",
    "train.sampling": "balanced",
    "train.select": "loss",
    "workers": 3,
}


@pytest.fixture
def recipe(write):
    return load_recipe(write(FULL)).recipe


@pytest.fixture(params=[FULL, IMAGES], ids=["classify", "generate"])
def any_recipe(write, request):
    return load_recipe(write(request.param + SEARCH)).recipe


def changed(recipe, key, value):
    values = recipe.model_dump(mode="json")
    target = values
    for name in key[:-1]:
        target = target[name]
    target[key[-1]] = value
    return type(recipe).model_validate_json(json.dumps(values))


def other(key, value):
    """Return a value that differs from `value`."""
    name = ".".join(key)
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}2"
    return value + 1 if isinstance(value, int) else value * 0.5 or 0.25


def test_every_field_but_the_incidental_ones_changes_the_identity(any_recipe):
    seen = {identity(any_recipe)}
    count = incidental = 0
    for key, value in leaves(any_recipe.model_dump(mode="json")):
        if key == ("task",):  # another task is another schema
            continue
        new = identity(changed(any_recipe, key, other(key, value)))
        count += 1
        if key in INCIDENTAL or key[:1] in INCIDENTAL:
            incidental += 1
            assert new == identity(any_recipe), key
        else:
            assert new not in seen, key
            seen.add(new)
    assert count >= 40
    assert incidental >= len(INCIDENTAL) - 1
    assert len(seen) == 1 + count - incidental


def test_options_of_the_backbone_count(recipe):
    assert identity(changed(recipe, ("backbone", "options", "act_layer"), "gelu")) != identity(recipe)


def test_order_and_comments_do_not_count(write, recipe):
    lines = FULL.splitlines()
    text = "\n".join(["# a comment", *lines[-3:], *lines[:-3]]) + "  # another\n"
    assert identity(load_recipe(write(text, "other/name.yaml")).recipe) == identity(recipe)


def test_of_paths_only_the_name_counts(recipe):
    def at(weights, card):
        return identity(changed(changed(recipe, ("backbone", "weights"), weights), ("data", "card"), card))

    assert (
        at("/a/net.safetensors", "my/card.yaml")
        == at("b/net.safetensors", "card.yaml")
        == at("net.safetensors", "card")
    )
    assert at("other.safetensors", "card") != at("net.safetensors", "card") != at("net.safetensors", "other")


def test_the_identity_is_stable_between_versions(write):
    # A change here orphans every finished run: it needs a new RESULTS_REVISION.
    assert identity(load_recipe(write(FULL), ["method.name=linear"]).recipe) == "480e704b"


def test_a_cell_holds_the_seeds_of_one_recipe(recipe):
    other_seed = changed(recipe, ("seed",), 1)
    assert cell(other_seed) == cell(recipe)
    assert identity(other_seed) != identity(recipe)
    assert cell(changed(recipe, ("train", "lr"), 0.5)) != cell(recipe)


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ([], "vit_base-isic-ssf-f100-s0-"),
        (["data.fraction=0.015", "seed=7"], "vit_base-isic-ssf-f1.5-s7-"),
        (["data.fraction=0.07"], "vit_base-isic-ssf-f7-s0-"),
        (["data.k_shot=5"], "vit_base-isic-ssf-k5-s0-"),
        (["backbone.name=resnet50.a1_in1k"], "resnet50-isic-ssf-"),
        (["backbone.name=mobilenetv2_100"], "mobilenetv2_100-isic-ssf-"),
        (["backbone.name=hf-hub:timm/vit_large_patch16_224.mae"], "vit_large-isic-ssf-"),
        (["backbone.name=hf-hub:me/My Net!/"], "My_Net-isic-ssf-"),
        (["backbone.name=../../.."], "unnamed-isic-ssf-"),
        (["data.card=/some/where/my-data.yaml"], "vit_base-my_data-ssf-"),
    ],
)
def test_run_ids_are_short_and_safe(write, overrides, start, tmp_path):
    (tmp_path / "my-data.yaml").touch()
    overrides = [override.replace("/some/where", str(tmp_path)) for override in overrides]
    loaded = load_recipe(write(FULL), overrides).recipe
    assert run_id(loaded) == start + run_id(loaded).removeprefix(start)
    assert run_id(loaded).endswith(identity(loaded))
    assert "/" not in run_id(loaded)
