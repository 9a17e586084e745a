"""What `--demo` changes in a recipe: data, weights and schedule; method, classes and everything else stay. No torch."""

import re
from pathlib import PurePath
from typing import Any

TRANSFORMERS = re.compile(r"vit|deit|swin|beit|eva")
CLASSIFY = {  # peak rates of a backbone; the others take FAST
    "full": 5e-4, "partial": 5e-4, "attention": 5e-4, "tsa": 1e-3, "lora": 2e-3, "lst": 1e-2,
}  # fmt: skip
FAST = 3e-3
EPOCHS = 8  # of the whole training split; a subset gets more, up to MOST_EPOCHS, for about as many steps
MOST_EPOCHS = 48
DENOISE = {  # rates of the U-Net; the others take FAST
    "full": 1e-3, "attention": 1e-3, "bias_norm_attention": 1e-3, "bias": 1e-2, "norm": 1e-2, "svdiff": 1e-2, "difffit": 1e-2,
}  # fmt: skip


def demo_overlay(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what is merged over a recipe for `--demo`.

    Args:
        recipe: a checked recipe, as its file gives it: fields with a default may be absent.

    Returns:
        The values to lay over it. The backbone is the bundled one of the same family; `weights: random` stays.
    """
    values = _generate(recipe) if "pipeline" in recipe else _classify(recipe)
    return values | {"search": {"trials": 0}}  # its own rates; --set search.trials=4 searches here too


def _classify(recipe: dict[str, Any]) -> dict[str, Any]:
    data, backbone = recipe["data"], recipe["backbone"]
    transformer = TRANSFORMERS.search(backbone["name"].lower())
    share = data.get("fraction", 1.0) if data.get("k_shot") is None else EPOCHS / MOST_EPOCHS
    return {
        "data": _twin(recipe),
        "backbone": {
            "name": "demo_vit" if transformer else "demo_resnet",
            "weights": "random" if backbone.get("weights") == "random" else "pretrained",
            "options": {},
            "input": {},
        },
        "train": {
            "epochs": min(MOST_EPOCHS, round(EPOCHS / share)),
            "batch_size": 32,
            "micro_batch_size": 32,
            "lr": CLASSIFY.get(recipe["method"]["name"], FAST),
            "warmup_epochs": 1,
            "precision": "float32",
        },
        "augment": {"crop_scale": [0.7, 1.0], "crop_ratio": [0.9, 1.1111], "horizontal_flip": 0.5},
        "evaluate": {"bootstrap": 1000},
        "demo": True,
    }


def _generate(recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": _twin(recipe),
        "pipeline": {"name": "demo_sd", "variant": None, "config": None, "size": None},
        "train": {
            "steps": 600,
            "batch_size": 16,
            "micro_batch_size": 16,
            "lr": DENOISE.get(recipe["method"]["name"], FAST),
            "precision": "float32",
            "gradient_checkpointing": False,
            "validate_steps": 200,
        },
        "sample": {"prompts": 120, "count": 1, "steps": 20, "batch_size": 20},
        "evaluate": {"encoder": "demo", "encoder_weights": None, "clip": "demo", "bootstrap": 200},
        "demo": True,
    }


def _twin(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return where the synthetic twin of a recipe's dataset is made."""
    return {"root": f"data/demo/{PurePath(recipe['data']['card']).stem}"}
