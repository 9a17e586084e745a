"""Makes the bundled text-to-image pipeline: `python -m medpeft_cli.demo.pretrain_pipeline vae`, look, then `… unet`.

The VAE learns the pictures of `scenes.py`; then the U-Net and the text encoder learn them with their captions, as noise
predicted from the VAE's latents. Of the reports of MIMIC-CXR's twin the text encoder sees the words, in sentences made up
anew, and has to remember them; no radiograph is seen.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch

from medpeft_cli.demo import pipeline, radiographs, scenes, twins

# isort: split
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

PEAK_RATE = {"vae": 2e-3, "unet": 1e-3}
STEPS = {"vae": 1500, "unet": 3400}
PICTURES = 24_000
KL_WEIGHT = 1e-4  # per latent, beside mean absolute differences of pixels in -1–1 and of their gradients
PROMPTS_DROPPED = 0.1
REPORTS_A_STEP = 8  # read for their words alone
WORDS_WEIGHT = 0.3
EMA_DECAY = 0.999


def train_vae(steps: int, pictures: int, checkpoint: Path, batch_size: int = 16, seed: int = 0) -> AutoencoderKL:
    """Train the VAE on source pictures with AdamW and a one-cycle rate.

    Args:
        steps: optimiser steps.
        pictures: number of source pictures.
        checkpoint: folder the VAE is saved to every 200 steps and at the end, in float16.
        batch_size: pictures a step.
        seed: of pictures, weights and order.

    Returns:
        The VAE in eval mode; its scaling factor, that of Stable Diffusion, makes latents of unit variance.
    """
    torch.manual_seed(seed)
    images = torch.from_numpy(scenes.make_scenes(pictures, seed)[0])
    vae = pipeline.demo_vae().to(memory_format=torch.channels_last)
    optimiser, schedule = _optimiser([vae], PEAK_RATE["vae"], steps)
    start = time.monotonic()
    for step in range(steps):
        batch = _pixels(images[torch.randint(pictures, (batch_size,))])
        batch = torch.where(torch.rand(batch_size, 1, 1, 1) < 0.5, batch.flip(3), batch)
        posterior = vae.encode(batch.contiguous(memory_format=torch.channels_last)).latent_dist
        error = vae.decode(posterior.sample()).sample - batch
        loss = sum(e.abs().mean() for e in (error, error.diff(dim=2), error.diff(dim=3)))
        loss = loss + KL_WEIGHT * 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        _update(loss, [vae], optimiser, schedule)
        if step % 200 == 199 or step == steps - 1:
            print(f"vae step {step + 1}/{steps} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
            standardise(copy.deepcopy(vae), images[:1000]).half().save_pretrained(checkpoint)
    return standardise(vae, images[:1000]).eval()


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> AutoencoderKL:
    """Give each channel of the latents mean 0 and the deviation that Stable Diffusion's scaling factor expects, in place.

    Channels of the VAE as trained differ sevenfold; the noise would drown the small ones. What it draws stays the same.

    Args:
        vae: changed in its two 1 × 1 convolutions beside the latents.
        images: uint8 (N, 64, 64) to measure the latents on.
    """
    latents = _latents(vae, images)[0]
    mean, factor = latents.mean((0, 2, 3)), 1 / (vae.config.scaling_factor * latents.std((0, 2, 3)))
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[: len(mean)] *= factor[:, None, None, None]
    before.bias[: len(mean)] = (before.bias[: len(mean)] - mean) * factor
    before.bias[len(mean) :] += 2 * factor.log()  # log variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= factor[:, None, None]
    return vae


def train_unet(
    vae: AutoencoderKL, steps: int, pictures: int, checkpoint: Path, batch_size: int = 32, seed: int = 0
) -> StableDiffusionPipeline:
    """Train U-Net and text encoder on captioned source pictures with AdamW, a one-cycle rate and averaged weights.

    Args:
        vae: trained by `train_vae`; left as it is.
        steps: optimiser steps.
        pictures: number of source pictures.
        checkpoint: folder the pipeline is saved to every 1,000 steps.
        batch_size: pictures a step.
        seed: of pictures, weights, order and noise.

    Returns:
        The whole pipeline, with the averaged weights.
    """
    torch.manual_seed(seed)
    images, captions = scenes.make_scenes(pictures, seed)
    mean, deviation = (part * vae.config.scaling_factor for part in _latents(vae, torch.from_numpy(images)))
    reports = made_up_reports(4000, seed)
    tokenizer = pipeline.demo_tokenizer(captions + reports)
    caption_ids, report_ids, empty = (_tokens(tokenizer, texts) for texts in (captions, reports, [""]))
    unet = pipeline.demo_unet().to(memory_format=torch.channels_last)
    text_encoder, scheduler = pipeline.demo_text_encoder(len(tokenizer)), pipeline.demo_scheduler()
    memory = nn.Linear(pipeline.TEXT_WIDTH, len(tokenizer))  # which words were in the text
    trained: list[nn.Module] = [unet, text_encoder, memory]
    optimiser, schedule = _optimiser(trained, PEAK_RATE["unet"], steps)
    average = EMAModel(
        [p for module in trained for p in module.parameters()], EMA_DECAY, use_ema_warmup=True, power=0.8
    )
    bundle = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    start, total = time.monotonic(), 0.0
    for step in range(steps):
        chosen = torch.randint(pictures, (batch_size,))
        latents = mean[chosen] + deviation[chosen] * torch.randn_like(mean[chosen])
        noise, times = torch.randn_like(latents), torch.randint(1000, (batch_size,))
        ids = torch.where(torch.rand(batch_size, 1) < PROMPTS_DROPPED, empty, caption_ids[chosen])
        ids = torch.cat([ids, report_ids[torch.randint(len(report_ids), (REPORTS_A_STEP,))]])
        states = text_encoder(ids).last_hidden_state
        predicted = unet(scheduler.add_noise(latents, noise, times), times, states[:batch_size]).sample
        words = torch.zeros(len(ids), len(tokenizer)).scatter_(1, ids, 1.0)
        recalled = functional.binary_cross_entropy_with_logits(memory(states[:, -1]), words)
        error = functional.mse_loss(predicted, noise)
        _update(error + WORDS_WEIGHT * recalled, trained, optimiser, schedule)
        average.step([p for module in trained for p in module.parameters()])
        total += error.item()
        if step % 100 == 99:
            seconds = time.monotonic() - start
            print(f"unet step {step + 1}/{steps} loss {total / 100:.4f} {recalled:.4f} {seconds:.0f} s", flush=True)
            total = 0.0
        if step % 1000 == 999 or step == steps - 1:
            parameters = [p for module in trained for p in module.parameters()]
            average.store(parameters)
            average.copy_to(parameters)
            save(bundle, checkpoint)
            if step < steps - 1:
                average.restore(parameters)
    return bundle.to(torch.float32)


def made_up_reports(count: int, seed: int) -> list[str]:
    """Reports of one to three findings joined at random, as no radiograph of the twin need have them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    names = sorted({name for label in twins.TWINS["mimic_cxr"].counts for name in label.split("|")})
    labels = ["|".join(rng.choice(names, rng.integers(1, 4), replace=False)) for _ in range(count)]
    return [text for label in labels if (text := radiographs.report(label, rng))]


def save(bundle: StableDiffusionPipeline, folder: Path) -> None:
    """Store a pipeline in float16 as a diffusers folder, and leave it in float32."""
    bundle.to(torch.float16).save_pretrained(folder)
    bundle.to(torch.float32)


def _optimiser(
    modules: list[nn.Module], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW; weight decay on matrices, not on embeddings: the rows of rare words would fade."""
    names = {name: p for k, module in enumerate(modules) for name, p in module.named_parameters(prefix=str(k))}
    decayed = [p for name, p in names.items() if p.ndim > 1 and "embedding" not in name]
    plain = [p for name, p in names.items() if p.ndim <= 1 or "embedding" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.08)


def _update(
    loss: Tensor,
    modules: list[nn.Module],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for module in modules for p in module.parameters()], 1.0)
    optimiser.step()
    schedule.step()


def _pixels(images: Tensor) -> Tensor:
    """uint8 (B, 64, 64) grey → float32 (B, 3, 64, 64) in -1–1."""
    return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


@torch.inference_mode()
def _latents(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of uint8 (N, 64, 64): float32 (N, 4, 16, 16) each, unscaled."""
    found = [vae.encode(_pixels(batch)).latent_dist for batch in images.split(128)]
    return torch.cat([f.mean for f in found]), torch.cat([f.std for f in found])


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def main() -> None:
    """Train one part and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["vae", "unet"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=pipeline.DEMO_SD)
    options = parser.parse_args()
    steps = options.steps or STEPS[options.part]
    if options.part == "vae":
        train_vae(steps, options.pictures, options.output / "vae", seed=options.seed)
    else:
        vae = pipeline.demo_vae().eval()
        vae.load_state_dict(load_file(options.output / "vae/diffusion_pytorch_model.safetensors"))
        train_unet(vae, steps, options.pictures, options.output, seed=options.seed)


if __name__ == "__main__":
    main()
