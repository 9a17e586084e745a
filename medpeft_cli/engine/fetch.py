"""Load once whatever the runs of a grid take from the network, so that it is in its cache where there is none."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from medpeft_cli.console import console
from medpeft_cli.errors import MedpeftError
from medpeft_cli.models.backbones import build_trunk
from medpeft_cli.recipe.schema import ClassifyRecipe, GenerateRecipe


class Fetched(NamedTuple):
    """One set of weights.

    Attributes:
        name: as the recipes have it.
        kind: backbone, pipeline, encoder or clip.
        bytes: of its tensors.
    """

    name: str
    kind: str
    bytes: int


def fetch_weights(recipes: Iterable[ClassifyRecipe | GenerateRecipe]) -> tuple[list[Fetched], list[MedpeftError]]:
    """Load every backbone, pipeline and scoring network that recipes name, each once, and let it go again.

    Returns:
        What is there now, and what could not be had.
    """
    wanted: dict[tuple[str, str], Callable[[], int]] = {}
    for recipe in recipes:
        wanted |= _needs(recipe)
    found, problems = [], []
    with console.progress(len(wanted), "weights", "networks") as advance:
        for (kind, name), load in wanted.items():
            try:
                found.append(Fetched(name, kind, load()))
            except MedpeftError as error:
                problems.append(error)
            advance(1, note=name)
    return found, problems


def _needs(recipe: ClassifyRecipe | GenerateRecipe) -> dict[tuple[str, str], Callable[[], int]]:
    """Return what one recipe loads: (kind, name) → how; the same name is loaded once."""
    if isinstance(recipe, ClassifyRecipe):
        return {("backbone", recipe.backbone.name): lambda: _bytes(build_trunk(recipe.backbone))}
    score = recipe.evaluate
    weights = score.encoder_weights and Path(score.encoder_weights)
    needs = {
        ("pipeline", recipe.pipeline.name): partial(_pipeline, recipe),
        ("encoder", score.encoder): partial(_encoder, score.encoder, weights),
    }
    return needs | ({("clip", score.clip): partial(_clip, score.clip)} if score.clip else {})


def _pipeline(recipe: GenerateRecipe) -> int:
    from medpeft_cli.models.diffusion import load_diffusion

    spec = recipe.pipeline
    parts = load_diffusion(spec.name, variant=spec.variant, config=spec.config)
    return sum(_bytes(part) for part in (parts.unet, parts.vae, *parts.text_encoders))


def _encoder(name: str, weights: Path | None) -> int:
    from medpeft_cli.metrics.encoders import load_encoder

    return _bytes(load_encoder(name, torch.device("cpu"), weights).network)


def _clip(name: str) -> int:
    from medpeft_cli.metrics.alignment import load_clip

    return _bytes(load_clip(name, torch.device("cpu")).model)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
