"""Trainable parameters of Stable Diffusion 1.5's U-Net (Table 4; paper.md §6.6), counted on the meta device."""

from functools import cache

import pytest
import torch

from medpeft_cli import compat  # noqa: F401  must come before diffusers

# isort: split
from diffusers import UNet2DConditionModel

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt

EVERYWHERE = (
    r".*(to_[qkv]|to_out\.0|ff\.net\.(0\.proj|2)|proj_in|proj_out"
    r"|resnets\.\d+\.(conv\d|conv_shortcut|time_emb_proj))"
)

SD15 = {  # config.json of the published U-Net
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


@cache
def unet_counts(method: str, parameters: tuple = ()) -> dict[str, int]:
    """Counts of a method on Stable Diffusion 1.5, once in a session."""
    return unet_cell(method, **dict(parameters)).counts()


def unet_cell(method: str, **parameters) -> Adapted:
    with torch.device("meta"):
        model = UNet2DConditionModel(**SD15)
        return adapt(model, "unet", METHODS[method], METHODS[method].config(**parameters))


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [  # the paper's eight rows (Table 4), in its order; full and attention are printed ten times too small
        ("full", {}, 859_520_964),
        ("attention", {}, 267_239_360),
        ("bias", {}, 343_684),
        ("norm", {}, 200_320),
        ("bias_norm_attention", {}, 267_421_124),
        ("lora", {"rank": 4}, 797_184),
        ("svdiff", {}, 222_805),
        ("difffit", {"scales": "projections"}, 581_124),
        # other forms of them
        ("attention", {"scope": "attention"}, 93_536_640),
        ("bias_norm_attention", {"scope": "attention"}, 93_955_524),
        ("difffit", {}, 481_284),
        # HF peft on attention's query, key, value and output
        ("lora", {}, 3_188_736),
        ("lora", {"rank": 8, "targets": EVERYWHERE}, 7_971_328),
        ("dora", {"rank": 8}, 1_694_208),
        ("loha", {}, 3_188_736),
        ("loha", {"targets": EVERYWHERE, "effective_conv": True}, 9_603_584),
        ("lokr", {}, 138_592),
        ("lokr", {"targets": EVERYWHERE}, 460_688),
        ("ia3", {}, 99_840),
        ("ia3", {"targets": EVERYWHERE}, 347_520),  # the feed-forward's second layer on its input, 4 C each
        ("vera", {}, 132_608),
        ("oft", {}, 1_541_568),
        ("hra", {}, 795_648),
        ("hra", {"targets": EVERYWHERE}, 5_490_688),
        ("hira", {"rank": 8}, 1_594_368),
        ("adalora", {}, 2_393_088),
        ("delora", {}, 1_594_496),
        ("miss", {"rank": 8}, 798_720),
        ("randlora", {}, 2_798_080),
        ("fourierft", {}, 128_000),
        ("road", {}, 99_840),
        ("glora", {}, 3_388_736),
        ("gralora", {}, 6_377_472),
        ("c3a", {}, 1_461_120),
        ("pvera", {}, 165_376),
        ("psoft", {}, 71_680),
    ],
)
def test_unet_of_stable_diffusion(method, parameters, expected):
    counts = unet_counts(method, tuple(parameters.items()))
    assert (counts["method"], counts["head"]) == (expected, 0)


def test_the_modules_that_methods_of_the_unet_adapt():
    assert len(unet_cell("svdiff").matched) == 391
    assert len(unet_cell("norm").matched) == 61 + 48  # GroupNorm, LayerNorm
    assert len(unet_cell("lora").matched) == 32 * 4
