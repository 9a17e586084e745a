"""Rebuild an adapted model from its adapter folder alone: no recipe, no data, no record needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medpeft_cli.data.decode import as_grey_if_equal, decode_image, shrink
from medpeft_cli.data.images import InputSpec, eval_image
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.predict import normalise
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt
from medpeft_cli.methods.state import load_adapter_tensors, set_delta
from medpeft_cli.models.backbones import Built, build_backbone
from medpeft_cli.recipe.schema import Backbone, ClassifyRecipe, Strict
from medpeft_cli.registry import lookup


class AdapterInfo(Strict):
    """medpeft.json: what an adapter folder says of itself, enough to be rebuilt anywhere."""

    format_version: Literal[1] = 1
    run: str
    demo: bool
    seed: int
    classes: tuple[str, ...]
    backbone: Backbone
    weights_sha256: str
    family: Literal["cnn", "vit"]
    method: dict[str, Any]
    input: dict[str, Any]
    store_size: int


@dataclass(frozen=True)
class Restored:
    """An adapted model in eval mode, and how to feed and read it."""

    adapted: Adapted
    classes: tuple[str, ...]
    input: InputSpec
    info: AdapterInfo

    @property
    def model(self) -> nn.Module:
        """The adapted nn.Module: float32 (B, 3, S, S) → logits (B, K)."""
        return self.adapted.model

    def preprocess(self, picture: str | Path) -> Tensor:
        """Read a picture file into the model's input, float32 (1, 3, S, S), exactly as `prepare` and evaluation do.

        Raises:
            DataError: if the file is not a readable picture.
        """
        stored = as_grey_if_equal(np.asarray(shrink(decode_image(Path(picture)), self.info.store_size)))
        pixels = eval_image(stored, self.input)
        return normalise(torch.from_numpy(pixels.copy())[None], self.input)


def adapter_info(recipe: ClassifyRecipe, built: Built, manifest: Manifest, run: str) -> dict[str, Any]:
    """Return the content of medpeft.json for a trained run."""
    backbone = recipe.backbone
    if backbone.weights not in ("pretrained", "random"):
        backbone = backbone.model_copy(update={"weights": str(Path(backbone.weights).resolve())})
    return AdapterInfo(
        run=run,
        demo=recipe.demo,
        seed=recipe.seed,
        classes=manifest.classes,
        backbone=backbone,
        weights_sha256=built.weights_sha256,
        family=built.family,
        method={"name": recipe.method.name, **recipe.method.parameters},
        input=vars(built.input),
        store_size=manifest.info["size"],
    ).model_dump(mode="json")


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
    content, tensors = load_adapter_tensors(folder)
    try:
        info = AdapterInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{folder / 'medpeft.json'}: {place}: {first['msg'].lower()}", "copy the whole adapter folder"
        ) from error
    spec = info.backbone if weights is None else info.backbone.model_copy(update={"weights": str(weights)})
    built = build_backbone(spec, len(info.classes), info.seed)
    if built.weights_sha256 != info.weights_sha256:
        raise DataError(
            f"{folder}: the backbone's weights are not those the adapter was trained on: "
            f"sha256 {built.weights_sha256[:12]}, wanted {info.weights_sha256[:12]}",
            f"it was trained on {spec.name!r} with weights {info.backbone.weights!r}; give that file with --weights",
        )
    parameters = dict(info.method)
    method = lookup("PEFT method", METHODS, parameters.pop("name"))
    torch.manual_seed(seed_of(info.seed, "adapter"))
    adapted = adapt(built.model, built.family, method, method.config(**parameters))
    set_delta(adapted, tensors)
    adapted.model.eval()
    return Restored(adapted, info.classes, built.input, info)
