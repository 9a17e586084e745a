"""Rebuild an adapted model from its adapter folder alone: no recipe, no data, no record needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from medpeft_cli.data.images import InputSpec, eval_image
from medpeft_cli.engine.predict import normalise
from medpeft_cli.errors import DataError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt
from medpeft_cli.methods.state import load_adapter_tensors, set_delta
from medpeft_cli.models.backbones import Built, build_backbone
from medpeft_cli.recipe.schema import Backbone, ClassifyRecipe
from medpeft_cli.registry import lookup


@dataclass(frozen=True)
class Restored:
    """An adapted model in eval mode, and how to feed and read it."""

    adapted: Adapted
    classes: tuple[str, ...]
    input: InputSpec
    info: dict[str, Any]

    @property
    def model(self) -> nn.Module:
        """The adapted nn.Module: float32 (B, 3, S, S) → logits (B, K)."""
        return self.adapted.model

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn a Pillow image into the model's input, float32 (1, 3, S, S), exactly as in evaluation."""
        pixels = eval_image(np.asarray(image.convert("RGB")), self.input)
        return normalise(torch.from_numpy(pixels.copy())[None], self.input)


def adapter_info(recipe: ClassifyRecipe, built: Built, classes: tuple[str, ...], run: str) -> dict[str, Any]:
    """Return what an adapter folder has to say of itself (medpeft.json) to be rebuilt anywhere."""
    backbone = recipe.backbone.model_dump(mode="json")
    if recipe.backbone.weights not in ("pretrained", "random"):
        backbone["weights"] = str(Path(recipe.backbone.weights).resolve())
    return {
        "format_version": 1,
        "run": run,
        "demo": recipe.demo,
        "seed": recipe.seed,
        "classes": list(classes),
        "backbone": backbone,
        "weights_sha256": built.weights_sha256,
        "family": built.family,
        "method": {"name": recipe.method.name, **recipe.method.parameters},
        "input": vars(built.input) | {"mean": list(built.input.mean), "std": list(built.input.std)},
    }


def restore_adapter(folder: str | Path, weights: str | Path | None = None) -> Restored:
    """Rebuild the adapted model that an adapter folder describes.

    Args:
        folder: `adapter/` of a run, or a copy of it.
        weights: where the backbone's local weights are now, if they have moved; None = where they were.

    Returns:
        The model on the CPU in eval mode, its classes and its preprocessing.

    Raises:
        DataError: if a file is missing or damaged, or the backbone's weights are not those it was trained on.
    """
    folder = Path(folder)
    info, tensors = load_adapter_tensors(folder)
    spec = Backbone.model_validate(info["backbone"] | ({} if weights is None else {"weights": str(weights)}))
    classes = tuple(info["classes"])
    built = build_backbone(spec, len(classes), info["seed"])
    if built.weights_sha256 != info["weights_sha256"]:
        raise DataError(
            f"{folder}: the backbone's weights are not those the adapter was trained on: "
            f"sha256 {built.weights_sha256[:12]}, wanted {info['weights_sha256'][:12]}",
            f"it was trained on {spec.name!r} with weights {spec.weights!r}",
        )
    parameters = dict(info["method"])
    method = lookup("PEFT method", METHODS, parameters.pop("name"))
    adapted = adapt(built.model, built.family, method, method.config(**parameters))
    set_delta(adapted, tensors)
    adapted.model.eval()
    return Restored(adapted, classes, built.input, info)
