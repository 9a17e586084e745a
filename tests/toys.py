"""Tiny random Stable Diffusion of the real classes: the layouts of 1.5, 2.1 and XL at small widths."""

import re
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
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOY_SIZE = 16  # pixels: latents of 8 × 8, and a VAE that halves once
TEXT_WIDTH = 16
SECOND_WIDTH = 24  # of XL's second text encoder, by which diffusers tells the two apart
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
        "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": SECOND_WIDTH + 6 * 8,
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
        second = {
            "text_encoder_2": toy_text_encoder(CLIPTextModelWithProjection, SECOND_WIDTH),
            "tokenizer_2": toy_tokenizer(),
        }
        pipeline = StableDiffusionXLPipeline(**parts, **second)
    else:
        off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **off)
    if variant is not None:
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant=variant)
    for file in Path(folder).glob(
        "tokenizer*/tokenizer.json"
    ):  # the published pipelines have vocab.json and merges.txt
        pipeline.tokenizer.backend_tokenizer.model.save(str(file.parent))
        file.unlink()
    return Path(folder)


def toy_text_encoder(kind: type, width: int = TEXT_WIDTH) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=width, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return kind(config).eval()


def toy_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with its alphabet of bytes alone: one token per letter."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77)


def toy_single_file(folder: Path, file: Path, kind: str = "sd1") -> Path:
    """Write the parts of a toy pipeline into one file, under the names of the original code."""
    tensors = {}
    if kind == "sd2":
        tensors |= open_clip_names(folder / "text_encoder", "cond_stage_model.model.")
    else:
        prefix = "cond_stage_model." if kind == "sd1" else "conditioner.embedders.0."
        for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
            tensors[f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    if kind == "sdxl":
        tensors |= open_clip_names(folder / "text_encoder_2", "conditioner.embedders.1.model.")
    upsampler = (r"up_blocks\.0\.upsamplers\.0", f"output_blocks.1.{2 if kind == 'sdxl' else 1}")
    for part, prefix, rules in (
        ("unet", "model.diffusion_model.", (upsampler, *UNET_NAMES)),
        ("vae", "first_stage_model.", VAE_NAMES),
    ):
        for name, tensor in load_file(folder / part / "diffusion_pytorch_model.safetensors").items():
            for new, old in rules:
                name = re.sub(new, old, name)
            tensors[prefix + name] = tensor
    save_file(tensors, file)
    return file


def open_clip_names(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Return a text encoder's tensors as open_clip has them: query, key and value in one, the projection transposed."""
    tensors = {
        name.removeprefix("text_model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    renamed = {}
    for name, tensor in tensors.items():
        if "text_projection" in name:
            tensor = tensor.T.contiguous()
        elif ".q_proj." in name:
            tensor = torch.cat([tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        for new, old in OPEN_CLIP_NAMES:
            name = re.sub(new, old, name)
        renamed[prefix + name] = tensor
    return renamed


OPEN_CLIP_NAMES = (
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.token_embedding", "token_embedding"),
    (r"final_layer_norm", "ln_final"),
    (r"text_projection\.weight", "text_projection"),
    (r"encoder\.layers", "transformer.resblocks"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"self_attn\.q_proj\.", "attn.in_proj_"),
    (r"self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
RESNET_NAMES = (
    (r"norm1(?=\.\w+$)", "in_layers.0"),
    (r"conv1", "in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"norm2(?=\.\w+$)", "out_layers.0"),
    (r"conv2", "out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
)
UNET_NAMES = (  # of two levels with one layer each
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"add_embedding\.linear_1", "label_emb.0.0"),
    (r"add_embedding\.linear_2", "label_emb.0.2"),
    (r"conv_in", "input_blocks.0.0"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
    *((rf"(?<=resnets\.\d\.){new}", old) for new, old in RESNET_NAMES),
    (r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
    (r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
    (r"mid_block\.resnets\.0", "middle_block.0"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.1", "middle_block.2"),
    (r"up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
    (r"up_blocks\.0\.attentions\.(\d)", r"output_blocks.\1.1"),
    (r"up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    (r"up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    (r"up_blocks\.1\.attentions\.0", "output_blocks.2.1"),
    (r"up_blocks\.1\.attentions\.1", "output_blocks.3.1"),
)
VAE_NAMES = (
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.resnets", "up.1.block"),
    (r"up_blocks\.1\.resnets", "up.0.block"),
    (r"up_blocks\.0\.upsamplers\.0", "up.1.upsample"),
)
