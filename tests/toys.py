"""Tiny random Stable Diffusion of the real classes: the layouts of 1.5, 2.1 and XL at small widths."""

import json
from pathlib import Path

from medpeft_cli import compat  # noqa: F401  must come before transformers

# isort: split
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOY_SIZE = 16  # pixels: latents of 8 × 8, and a VAE that halves once
TEXT_WIDTH = 16
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}
SCHEDULERS = {
    "sd1": lambda: PNDMScheduler(skip_prk_steps=True, **{key: NOISE[key] for key in NOISE if key != "clip_sample"}),
    "sd2": lambda: DDIMScheduler(prediction_type="v_prediction", set_alpha_to_one=False, **NOISE),
    "sdxl": lambda: EulerDiscreteScheduler(
        timestep_spacing="leading", **{key: NOISE[key] for key in NOISE if key != "clip_sample"}
    ),
}
UNETS = {
    "sd1": {"attention_head_dim": 2, "cross_attention_dim": TEXT_WIDTH},
    "sd2": {"attention_head_dim": (2, 4), "cross_attention_dim": TEXT_WIDTH, "use_linear_projection": True},
    "sdxl": {
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 8,
    },
}


def toy_unet(kind: str = "sd1", **changes) -> UNet2DConditionModel:
    """A U-Net with every kind of layer that Stable Diffusion's has; `changes` are arguments of its class."""
    options = {
        "sample_size": TOY_SIZE // 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**options | UNETS[kind] | changes).eval()


def toy_pipeline(folder: Path | str, kind: str = "sd1", variant: str | None = None) -> Path:
    """Write a whole pipeline with `save_pretrained` and return its folder.

    Args:
        folder: made if missing.
        kind: sd1 (epsilon), sd2 (v-prediction) or sdxl (two text encoders).
        variant: "fp16" writes half-precision files with that word in their names; None = float32.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=TOY_SIZE,
    )
    parts = {"vae": vae, "unet": toy_unet(kind), "scheduler": SCHEDULERS[kind]()}
    parts |= {"text_encoder": toy_text_encoder(CLIPTextModel), "tokenizer": toy_tokenizer()}
    if kind == "sdxl":
        second = {"text_encoder_2": toy_text_encoder(CLIPTextModelWithProjection), "tokenizer_2": toy_tokenizer()}
        pipeline = StableDiffusionXLPipeline(**parts, **second)
    else:
        off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **off)
    if variant is not None:
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant=variant)
    for tokenizer in Path(folder).glob("tokenizer*"):
        as_published(tokenizer)
    return Path(folder)


def toy_text_encoder(kind: type) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=TEXT_WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=TEXT_WIDTH, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return kind(config).eval()


def toy_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with its alphabet of bytes alone: one token per letter."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77)


def as_published(folder: Path) -> None:
    """Write a tokenizer as the published pipelines have it: vocab.json and merges.txt, not tokenizer.json."""
    file = folder / "tokenizer.json"
    model = json.loads(file.read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    file.unlink()
