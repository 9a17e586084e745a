"""What a model says of a split: batches in, logits and probabilities out."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from medpeft_cli.console import Advance
from medpeft_cli.data.images import Batches, ImageStore, InputSpec
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.assembly import loader_threads
from medpeft_cli.engine.loop import autocast
from medpeft_cli.engine.transfer import on_device
from medpeft_cli.errors import RunError
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.stop import leave_if_asked


def evaluation_batches(
    manifest: Manifest,
    indices: np.ndarray,
    spec: InputSpec,
    recipe: ClassifyRecipe,
    part: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]] = list,
) -> Batches:
    """Return the batches of one split in ascending order, or a part of them, centre-cropped, the same at each pass."""
    shares = part(np.array_split(indices, math.ceil(len(indices) / recipe.evaluate.batch_size)))
    return Batches(ImageStore(manifest), manifest.labels, spec, None, shares, recipe.seed, 0, loader_threads(recipe))


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """Turn uint8 (B, 3, S, S) in [0, 255] into float32 (x / 255 − mean) / std per channel, with channels last in memory.

    Convolutions keep that order, and are faster in it.
    """
    size = images.shape[-1]
    rows = images.permute(0, 2, 3, 1).contiguous().float()  # (B, S, S, 3); of what `Batches` yields no byte is moved
    mean, std = _of_rows(spec.mean, size, images.device), _of_rows(spec.std, size, images.device)
    rows.flatten(2).sub_(mean).div_(std)
    return rows.permute(0, 3, 1, 2)


@cache
def _of_rows(values: tuple[float, float, float], size: int, device: torch.device) -> Tensor:
    """Return 255 times the values of the channels, for each pixel of a row (3 S): vectors too short are slow.

    Made once, since it waits for the device.
    """
    return torch.tensor(values, device=device).repeat(size) * 255


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Batches,
    spec: InputSpec,
    device: torch.device,
    precision: str,
    advance: Advance | None = None,
) -> Tensor:
    """Return the logits of every image of `batches`, float32 (N, K) on the CPU; the model is put into eval mode.

    Raises:
        RunError: if an output is not finite.
        Stopped: if a signal asked the run to leave.
    """
    model.eval()
    parts = []
    for images, _ in on_device(batches, device):
        leave_if_asked()
        with autocast(device, precision):
            parts.append(model(normalise(images, spec)).float())
        if advance is not None:
            advance(len(images))
    logits = torch.cat(parts).cpu() if parts else torch.empty(0)
    if not torch.isfinite(logits).all():
        raise RunError(
            "the model's outputs are not finite: training has diverged", "lower train.lr or set train.clip_norm to 1.0"
        )
    return logits


def softmax(logits: Tensor) -> np.ndarray:
    """Return class probabilities, float64 (N, K)."""
    return torch.softmax(logits.double(), dim=1).numpy()
