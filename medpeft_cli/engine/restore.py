"""Rebuild an adapted model from its adapter folder alone: no recipe, no data, no record needed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.method import Family
from medpeft_cli.methods.state import INFO_FILE, load_adapter_tensors, set_delta
from medpeft_cli.models.backbones import Built, build_backbone
from medpeft_cli.recipe.schema import Backbone, ClassifyRecipe, GenerateRecipe, MethodChoice, Pipeline, Strict

if TYPE_CHECKING:  # classification does without diffusers
    from medpeft_cli.models.diffusion import Diffusion


COPY_WHOLE = "copy the whole adapter folder"


class Info(Strict):
    """What every medpeft.json says of its adapter folder."""

    format_version: Literal[1] = 1
    run: str
    demo: bool
    seed: int
    weights_sha256: str
    method: MethodChoice


S = TypeVar("S", bound=Strict)


class AdapterInfo(Info):
    """medpeft.json of a classification adapter: enough to be rebuilt anywhere."""

    classes: tuple[str, ...]
    backbone: Backbone
    family: Literal["cnn", "vit"]
    input: InputSpec
    store_size: int


class PipelineInfo(Info):
    """medpeft.json of a U-Net's adapter: enough to be rebuilt anywhere."""

    pipeline: Pipeline
    family: Literal["unet"] = "unet"
    size: int


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


@dataclass(frozen=True)
class RestoredPipeline:
    """A Stable Diffusion whose U-Net is adapted, in eval mode.

    Attributes:
        adapted: the U-Net with the method in it; `diffusion.unet` is the same object.
        diffusion: all parts.
        info: medpeft.json.
    """

    adapted: Adapted
    diffusion: "Diffusion"
    info: PipelineInfo

    @property
    def model(self) -> nn.Module:
        """The adapted U-Net."""
        return self.adapted.model

    def tuned(self) -> "Diffusion":
        """Return the parts with a plain U-Net that has the method folded in: generation then costs nothing more.

        Raises:
            RecipeError: if the method is no change of the weights.
        """
        from diffusers import UNet2DConditionModel

        tensors = merged_state_dict(self.adapted)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.diffusion.unet.config)
        unet.load_state_dict(tensors, assign=True)
        return replace(self.diffusion, unet=unet.eval())


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
        method=recipe.method,
        input=built.input,
        store_size=manifest.info["size"],
    ).model_dump(mode="json")


def pipeline_info(recipe: GenerateRecipe, diffusion: "Diffusion", size: int, run: str) -> dict[str, Any]:
    """Return the content of medpeft.json for a trained text-to-image run; `size` in pixels, as it was trained."""
    pipeline = recipe.pipeline
    here = {field: _absolute(value) for field in ("name", "config") if (value := getattr(pipeline, field))}
    return PipelineInfo(
        run=run,
        demo=recipe.demo,
        seed=recipe.seed,
        pipeline=pipeline.model_copy(update=here),
        weights_sha256=diffusion.weights_sha256,
        method=recipe.method,
        size=size,
    ).model_dump(mode="json")


def restore_adapter(folder: str | Path, weights: str | Path | None = None) -> Restored | RestoredPipeline:
    """Rebuild the adapted model that an adapter folder describes.

    Args:
        folder: `adapter/` of a run, or a copy of it.
        weights: where the backbone's local weights, or the pipeline, are now, if they have moved; None = where they were.

    Returns:
        The model on the CPU in eval mode with its classes and its preprocessing, or a pipeline with its adapted U-Net.

    Raises:
        DataError: if a file is missing or damaged, or the weights are not those it was trained on.
    """
    folder = Path(folder)
    content, tensors = load_adapter_tensors(folder)
    if "pipeline" in content:
        return _restore_pipeline(folder, _checked(PipelineInfo, content, folder), tensors, weights)
    info = _checked(AdapterInfo, content, folder)
    spec = info.backbone if weights is None else info.backbone.model_copy(update={"weights": str(weights)})
    built = build_backbone(spec, len(info.classes), info.seed)
    _refuse_other_weights(folder, info, built.weights_sha256, f"{spec.name!r} with weights {info.backbone.weights!r}")
    adapted = _adapted(folder, info, built.model, built.family, tensors)
    return Restored(adapted, info.classes, info.input, info)  # as it was trained, whatever timm says of the weights now


def _restore_pipeline(
    folder: Path, info: PipelineInfo, tensors: dict[str, Tensor], weights: str | Path | None
) -> RestoredPipeline:
    from medpeft_cli.models.diffusion import load_diffusion

    spec = info.pipeline
    diffusion = load_diffusion(str(weights or spec.name), variant=spec.variant, config=spec.config)
    _refuse_other_weights(folder, info, diffusion.weights_sha256, f"{spec.name!r}, variant {spec.variant}")
    return RestoredPipeline(_adapted(folder, info, diffusion.unet, "unet", tensors), diffusion, info)


def _adapted(folder: Path, info: Info, model: nn.Module, family: Family, tensors: dict[str, Tensor]) -> Adapted:
    """Put the method and its tensors into a fresh model."""
    if info.method.name not in METHODS:
        raise DataError(f"{folder / INFO_FILE}: method.name: this medpeft has no {info.method.name!r}", COPY_WHOLE)
    method = METHODS[info.method.name]
    config = _checked(method.config, info.method.parameters, folder, "method.")
    torch.manual_seed(seed_of(info.seed, "adapter"))
    adapted = adapt(model, family, method, config)
    set_delta(adapted, tensors)
    adapted.model.eval()
    return adapted


def _checked(kind: type[S], content: Any, folder: Path, under: str = "") -> S:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = under + ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{folder / INFO_FILE}: {place}: {first['msg'].lower()}", COPY_WHOLE) from error


def _refuse_other_weights(folder: Path, info: Info, sha256: str, trained_on: str) -> None:
    if sha256 != info.weights_sha256:
        raise DataError(
            f"{folder}: the pre-trained weights are not those the adapter was trained on: "
            f"sha256 {sha256[:12]}, wanted {info.weights_sha256[:12]}",
            f"it was trained on {trained_on}; give that with --weights",
        )


def _absolute(name: str) -> str:
    """Return a local path in full, whatever the working directory will be; a hub id or bundled name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name
