"""The bundled Stable Diffusion pipeline: the classes and block types of the real one, narrow, for pictures of 64 pixels."""

import json
import re
from collections.abc import Iterable

from medpeft_cli import compat  # noqa: F401  (before diffusers)

# isort: split
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from medpeft_cli.demo.networks import DEMO_SIZE, WEIGHTS

DEMO_SD = WEIGHTS / "demo_sd"
LATENT_SIZE = DEMO_SIZE // 4  # Stable Diffusion divides by 8; so few pixels then blur too much
TEXT_WIDTH = 64
TEXT_LENGTH = 77  # tokens, as CLIP's


def demo_vae() -> AutoencoderKL:
    """Build the VAE with random weights: a factor of 4, 4 channels of latents.

    Shape:
        float32 (B, 3, 64, 64) in -1–1 ↔ (B, 4, 16, 16)
    """
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=DEMO_SIZE,
    )


def demo_unet() -> UNet2DConditionModel:
    """Build the U-Net with random weights: Stable Diffusion's blocks in the order of XL, without attention at 16 × 16.

    Shape:
        float32 (B, 4, 16, 16), steps (B,) and text (B, L, 64) → (B, 4, 16, 16)
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # number of heads, as diffusers reads it for version 1
        norm_num_groups=16,
    )


def demo_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Build the text encoder with random weights: 2 layers of width 64, 4 heads.

    Args:
        vocabulary: number of tokens; the last two are start and end of text.
    """
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def demo_scheduler() -> DDIMScheduler:
    """Build the scheduler of Stable Diffusion 1.5: 1,000 steps, scaled linear betas, the noise predicted."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def demo_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """Build a tokenizer of CLIP's kind in which every word of the texts is one token; others are spelt by their bytes.

    Args:
        texts: where the words are taken from.
    """
    words = sorted({word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.normalizer, model.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *dict.fromkeys("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]  # the end last: open_clip reads the text's state at the highest id
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)
