"""What `--demo` changes in a recipe: data, backbone and schedule; method, classes and everything else stay. No torch."""

import re
from pathlib import PurePath
from typing import Any

TRANSFORMERS = re.compile(r"vit|deit|swin|beit|eva")
SLOW = {"full": 5e-4, "attention": 5e-4, "lora": 2e-3, "tsa": 1e-3}  # peak rates; the others take FAST
FAST = 3e-3
EPOCHS = 8  # of the whole training split; a subset gets more, up to MOST_EPOCHS, for about as many steps
MOST_EPOCHS = 48


def demo_overlay(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what is merged over a recipe for `--demo`.

    Args:
        recipe: a checked recipe, as its file gives it: fields with a default may be absent.

    Returns:
        The values to lay over it. The backbone is the bundled one of the same family; `weights: random` stays.
    """
    data, backbone = recipe["data"], recipe["backbone"]
    transformer = TRANSFORMERS.search(backbone["name"].lower())
    share = data.get("fraction", 1.0) if data.get("k_shot") is None else EPOCHS / MOST_EPOCHS
    return {
        "data": {"root": f"data/demo/{PurePath(data['card']).stem}"},
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
            "lr": SLOW.get(recipe["method"]["name"], FAST),
            "warmup_epochs": 1,
            "precision": "float32",
        },
        "augment": {"crop_scale": [0.7, 1.0], "crop_ratio": [0.9, 1.1111], "horizontal_flip": 0.5},
        "evaluate": {"bootstrap": 1000},
        "demo": True,
    }
