"""Makes the bundled CLIP model, the judge of the demo's CLIP scores: `python -m medpeft_cli.demo.pretrain_clip`.

A judge has to know what it judges: it learns captioned pictures of `scenes.py` and radiographs with reports, drawn by the
generator of MIMIC-CXR's twin but for other patients, from other random numbers, with findings joined that the twin does
not join; half of them drawn again by the VAE from disturbed latents, all blurred, moved and re-exposed on top. No
picture of the twin is seen. Scenes keep their plain captions: a report belongs to a radiograph alone.
"""

import argparse
import copy
import json
import re
import time
from pathlib import Path

import numpy as np
import torch

from medpeft_cli.demo import pipeline, radiographs, scenes, twins
from medpeft_cli.demo.networks import DEMO_INPUT, DEMO_SIZE, WEIGHTS

# isort: split
import open_clip
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur
from transformers import CLIPTokenizer

DEMO_CLIP = WEIGHTS / "demo_clip"
TEXT_LENGTH = 40  # tokens; a report of the twin has at most 16
PEAK_RATE = 1e-3
SHIFT = 3  # pixels
DISTURBANCE = 0.6  # most noise on latents of unit variance
SHARES = {"same text": 0.6, "common words": 0.3, "same kind": 0.1}  # of what a picture is asked to be near to


def train_clip(
    folder: Path,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    steps: int,
    pictures: int,
    batch_size: int = 96,
    seed: int = 0,
) -> None:
    """Train the judge by CLIP's contrast of pictures and texts, and write it.

    Texts that are nearly right count in part, so that scores fall gradually, as those of a model that has read millions
    of captions do: see SHARES.

    Args:
        folder: written in open_clip's layout: configuration, weights in float16, tokenizer.
        tokenizer: of the bundled pipeline.
        vae: of the bundled pipeline.
        steps: optimiser steps.
        pictures: number of pictures, two thirds of them radiographs.
        batch_size: pictures a step.
        seed: of pictures, weights, order and augmentation.
    """
    torch.manual_seed(seed)
    drawn, texts = make_pairs(pictures, seed)
    scene = torch.arange(pictures) < pictures // 3
    images = torch.from_numpy(drawn)
    images[~scene & (torch.arange(pictures) % 2 == 0)] = _redraw(
        vae, images[~scene & (torch.arange(pictures) % 2 == 0)]
    )
    padding = {"padding": "max_length", "max_length": TEXT_LENGTH, "return_tensors": "pt"}
    ids = tokenizer(texts, **padding).input_ids
    normal = re.compile("|".join(map(re.escape, radiographs.NORMAL)))
    meanings = [normal.sub(radiographs.NORMAL[0], text) for text in texts]  # three wordings of one
    same = torch.from_numpy(np.unique(meanings, return_inverse=True)[1])
    words = torch.zeros(pictures, len(tokenizer)).scatter_(1, tokenizer(meanings, **padding).input_ids, 1.0)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(configuration(len(tokenizer)), indent=2) + "\n")
    model = open_clip.CLIP(**configuration(len(tokenizer))["model_cfg"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=0.1)
    start, total = time.monotonic(), 0.0
    for step in range(steps):
        chosen = torch.randint(pictures, (batch_size,))
        seen, read, scale = model(_spoil(images[chosen]), ids[chosen])
        logits = scale * seen @ read.T
        goal = _nearness(same[chosen], words[chosen], scene[chosen])
        loss = (functional.cross_entropy(logits, goal) + functional.cross_entropy(logits.T, goal)) / 2
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        total += loss.item()
        if step % 100 == 99:
            seconds = time.monotonic() - start
            print(f"clip step {step + 1}/{steps} loss {total / 100:.3f} {seconds:.0f} s", flush=True)
            total = 0.0
        if step % 500 == 499 or step == steps - 1:
            tensors = copy.deepcopy(model).half().state_dict()
            save_file(
                {key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "open_clip_model.safetensors"
            )


def configuration(vocabulary: int) -> dict:
    """open_clip's configuration of the judge: a residual CNN for the picture, a small transformer for the text."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": DEMO_SIZE, "layers": [1, 1, 1, 1], "width": 16},
            "text_cfg": {
                "context_length": TEXT_LENGTH,
                "vocab_size": vocabulary,
                "width": 64,
                "heads": 4,
                "layers": 2,
                "hf_tokenizer_name": "demo_clip",  # open_clip reads it from the folder
            },
        },
        "preprocess_cfg": {
            "size": DEMO_SIZE,
            "mean": DEMO_INPUT["mean"],
            "std": DEMO_INPUT["std"],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def make_pairs(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Draw radiographs with reports and, for every third picture, a captioned scene.

    Args:
        count: N, number of pictures.
        seed: of the whole set.

    Returns:
        uint8 (N, 64, 64) grey, and N texts.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn, captions = scenes.make_scenes(count // 3, seed + 1, medical_share=0)
    known = list(twins.TWINS["mimic_cxr"].counts)
    names = sorted({name for label in known for name in label.split("|")} - {"No Finding", "Pneumonia"})
    pictures, texts = list(drawn), captions
    while len(pictures) < count:
        new = rng.random() < 0.4
        label = (
            "|".join(sorted(rng.choice(names, rng.integers(1, 4), replace=False))) if new else str(rng.choice(known))
        )
        start = rng.bit_generator.state
        text = radiographs.report(label, rng)
        rng.bit_generator.state = start
        picture = radiographs.reported_radiograph(label, rng.spawn(1)[0], rng)
        pictures.append((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
        texts.append(text)
    return np.stack(pictures), texts


def _nearness(same: Tensor, words: Tensor, scene: Tensor) -> Tensor:
    """How near the texts of a batch are to each other: (B, B), rows sum to 1; the columns' sums are the rows'.

    Args:
        same: (B,) number of the meaning.
        words: (B, V) 1 where the text has the token.
        scene: (B,) whether it tells of a scene, not of a radiograph.
    """
    kind = (scene[:, None] == scene).float()
    common = words @ words.T
    parts = {
        "same text": (same[:, None] == same).float(),
        "common words": kind * common / (words.sum(1)[:, None] + words.sum(1) - common),
        "same kind": kind,
    }
    return sum(SHARES[name] * part / part.sum(1, keepdim=True) for name, part in parts.items())


@torch.inference_mode()
def _redraw(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode, add noise to the latents, decode, as a generator that errs would draw: uint8 (N, 64, 64) → the same."""
    drawn = []
    for batch in images.split(64):
        latents = vae.encode((batch.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)).latent_dist.mode()
        noise = torch.randn_like(latents) * torch.rand(len(batch), 1, 1, 1) * DISTURBANCE / vae.config.scaling_factor
        drawn.append(((vae.decode(latents + noise).sample.mean(1).clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(drawn)


def _spoil(images: Tensor) -> Tensor:
    """Shift, blur and expose anew: uint8 (B, 64, 64) → the model's input, float32 (B, 3, 64, 64)."""
    n, size, _ = images.shape
    index = torch.arange(size)
    down, across = ((index + torch.randint(-SHIFT, SHIFT + 1, (n, 1))).clamp(0, size - 1) for _ in range(2))
    pixels = images[torch.arange(n)[:, None, None], down[:, :, None], across[:, None, :]].float()[:, None] / 255
    if torch.rand(()) < 0.5:
        pixels = gaussian_blur(pixels, 5, float(torch.rand(()) * 1.2 + 0.1))
    pixels = pixels * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + 0.04 * torch.randn(n, 1, 1, 1)
    pixels = pixels + 0.03 * torch.rand(n, 1, 1, 1) * torch.randn_like(pixels)
    mean, std = DEMO_INPUT["mean"][0], DEMO_INPUT["std"][0]
    return ((pixels.clamp(0, 1) - mean) / std).expand(-1, 3, -1, -1)


def main() -> None:
    """Train the judge and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pipeline", type=Path, default=pipeline.DEMO_SD)
    parser.add_argument("--output", type=Path, default=DEMO_CLIP)
    options = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(options.pipeline / "tokenizer")
    vae = AutoencoderKL.from_pretrained(options.pipeline / "vae", dtype=torch.float32).eval()
    train_clip(options.output, tokenizer, vae, options.steps, options.pictures, seed=options.seed)


if __name__ == "__main__":
    main()
