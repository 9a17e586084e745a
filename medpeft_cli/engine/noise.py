"""A text-to-image training on noise, which needs neither pictures and texts nor the networks that encode them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.denoise import DenoiseTask
from medpeft_cli.engine.latents import Prompts, without_encoders
from medpeft_cli.models.sites import example_inputs


def noise_task(assembly: Assembly) -> DenoiseTask:
    """Return a training of the U-Net on noise; it validates on one batch, and keeps no hold of VAE and text encoder."""
    side = assembly.input.size // 2 ** (len(assembly.pretrained.vae.config.block_out_channels) - 1)
    task = DenoiseTask(without_encoders(assembly), Noise(assembly.adapted.model, side), lambda model, step: None)
    task.val_indices = task.val_indices[: assembly.recipe.train.micro_batch_size]
    return task


class Noise:
    """Noise in the place of `latents.Encoded`.

    Args:
        unet: that reads it.
        side: of the latents.
    """

    def __init__(self, unet: nn.Module, side: int):
        self._unet, self._side = unet, side
        self.shape = (unet.config.in_channels, side, side)

    def latents(self, indices: Sequence[int], noise: Tensor | None) -> Tensor:
        """Return noise like latents, float32 (B, C, h, w)."""
        return torch.randn(len(indices), *self.shape)

    def prompts(self, indices: Sequence[int], dropped: np.ndarray | None = None) -> Prompts:
        """Return noise like embedded prompts."""
        (_, _, tokens), options = example_inputs(self._unet, "unet", self._side, len(indices))
        pooled = options.get("added_cond_kwargs", {}).get("text_embeds")
        return Prompts(tokens.cpu(), None if pooled is None else pooled.cpu())
