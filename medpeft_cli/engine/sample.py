"""Pictures from prompts: each a function of the weights, the settings and its own seed, whatever is made beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medpeft_cli import compat  # noqa: F401  (before diffusers)

# isort: split
import diffusers
import numpy as np
import torch
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

from medpeft_cli.engine.latents import PromptEncoder
from medpeft_cli.engine.loop import autocast
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import RunError
from medpeft_cli.models.diffusion import Diffusion, pipeline_of

SCHEDULERS = {  # name in a recipe → its class in diffusers
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


@dataclass(frozen=True)
class Settings:
    """How pictures are made.

    Attributes:
        steps: denoising steps.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); 1 and less = none.
        scheduler: a name of SCHEDULERS; None = the pipeline's own.
        size: side of the square pictures, pixels.
    """

    steps: int
    guidance: float
    scheduler: str | None
    size: int


def image_seed(seed: int, prompt_index: int, image_index: int) -> int:
    """Return the seed of one picture, for torch's generator on the CPU; it depends on nothing else."""
    return seed_of(seed, f"sample/{prompt_index}/{image_index}")


def scheduler_of(diffusion: Diffusion, name: str | None) -> SchedulerMixin:
    """Return a sampler for the noise that a pipeline was trained with.

    Args:
        diffusion: the pipeline's parts.
        name: one of SCHEDULERS; None = the pipeline's own.
    """
    if name is None:
        return diffusion.scheduler
    # PNDM as Stable Diffusion 1.x has it; with the Runge-Kutta steps before it, it cannot make fewer than 4 steps
    options = {"skip_prk_steps": True} if name == "pndm" else {}
    return getattr(diffusers, SCHEDULERS[name]).from_config(diffusion.scheduler.config, **options)


class Sampler:
    """A pipeline that is ready to make pictures.

    Args:
        diffusion: the pipeline's parts; the U-Net may be an adapted one.
        settings: how pictures are made.
        device: where they are made. Prompts are embedded and latents decoded in float32.
        precision: arithmetic of the U-Net where its weights are float32.
    """

    def __init__(self, diffusion: Diffusion, settings: Settings, device: torch.device, precision: str):
        self.settings, self.device, self.precision = settings, device, precision
        self.encode = PromptEncoder(diffusion, device)
        self.empty = self.encode.empty()
        # without text encoders the pipeline takes the type of the U-Net for all that goes into it
        self.pipeline = pipeline_of(replace(diffusion, text_encoders=[None, None])).to(device)
        self.pipeline.scheduler = scheduler_of(diffusion, settings.scheduler)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Return one picture a prompt, uint8 (B, S, S, 3).

        Raises:
            RunError: if a picture is not finite.
        """
        pipeline, settings, unet = self.pipeline, self.settings, self.pipeline.unet
        embedded = self._conditions(prompts)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # one a picture, on the CPU everywhere
        half = "float32" if unet.dtype != torch.float32 else self.precision
        with autocast(self.device, half):
            latents = pipeline(
                **embedded, generator=generators, num_inference_steps=settings.steps, guidance_scale=settings.guidance,
                height=settings.size, width=settings.size, output_type="latent",
            ).images  # fmt: skip
        return self._decode(latents.float())

    def _conditions(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings of prompts, and of no prompt, as the pipeline takes them."""
        found, empty, count = self.encode(prompts), self.empty, len(prompts)
        pairs = {"prompt_embeds": found.tokens, "negative_prompt_embeds": empty.tokens.repeat(count, 1, 1)}
        if found.pooled is not None:
            pairs["pooled_prompt_embeds"] = found.pooled
            pairs["negative_pooled_prompt_embeds"] = empty.pooled.repeat(count, 1)
        return pairs

    def _decode(self, latents: Tensor) -> np.ndarray:
        """Return latents as pictures, uint8 (B, S, S, 3)."""
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        if not torch.isfinite(images).all():
            raise RunError("a generated picture is not finite", "generate with train.precision float32 or bfloat16")
        return ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
