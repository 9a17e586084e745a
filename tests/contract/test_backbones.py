"""Every own method and LoRA on each kind of backbone: it works and merges, or it says why not."""

import pytest
import torch

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt, probe
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.models import sites
from tests.methods.tiny import build, config_of, distance, images, perturb

NARROW = {"depth": 1, "embed_dim": 64, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "img_size": 32}
BACKBONES = {
    # name: (options, image size, family)
    "deit_tiny_distilled_patch16_224": (NARROW | {"img_size": 32}, 32, "vit"),
    "vit_base_patch16_clip_224": (NARROW | {"img_size": 32}, 32, "vit"),
    "vit_small_patch14_reg4_dinov2": (NARROW | {"img_size": 28}, 28, "vit"),
    "vit_small_patch16_dinov3": (NARROW | {"img_size": 32}, 32, "vit"),
    "swin_tiny_patch4_window7_224": (SWIN, 32, "vit"),
    "swinv2_tiny_window8_256": (SWIN, 32, "vit"),
    "beit_base_patch16_224": (NARROW | {"img_size": 32}, 32, "vit"),
    "eva02_tiny_patch14_224": (NARROW | {"img_size": 28}, 28, "vit"),
    "resnext50_32x4d": ({"layers": (1, 1, 1, 1)}, 32, "cnn"),
    "test_convnext": ({}, 32, "cnn"),
    "test_efficientnet": ({}, 32, "cnn"),
    "test_efficientnet_gn": ({}, 32, "cnn"),
    "test_efficientnet_ln": ({}, 32, "cnn"),
    "tf_efficientnetv2_b0": ({"channel_multiplier": 0.25, "depth_multiplier": 0.1}, 33, "cnn"),
    "mobilenetv2_035": ({}, 32, "cnn"),
    "densenet121": ({"growth_rate": 16, "block_config": (2, 2)}, 32, "cnn"),
    "regnetx_002": ({}, 32, "cnn"),
    "test_nfnet": ({}, 32, "cnn"),
}
METHOD_NAMES = [name for name, method in METHODS.items() if method.code != "medpeft_cli.methods.hf"] + ["lora"]
CELLS = [
    (backbone, method)
    for backbone, (_, _, family) in BACKBONES.items()
    for method in METHOD_NAMES
    if family in METHODS[method].titles
]
FUSED = "does not reach backbone"
REFUSED = {
    ("swinv2_tiny_window8_256", "ssf"): FUSED,
    ("swinv2_tiny_window8_256", "lora"): FUSED,
    ("beit_base_patch16_224", "ssf"): FUSED,
    ("beit_base_patch16_224", "lora"): FUSED,
    ("eva02_tiny_patch14_224", "ssf"): FUSED,
    ("eva02_tiny_patch14_224", "lora"): FUSED,
    ("swin_tiny_patch4_window7_224", "lst"): "wanted a plain ViT",
    ("swinv2_tiny_window8_256", "lst"): "wanted a plain ViT",
    ("densenet121", "tsa"): "no residual block",
    ("test_nfnet", "norm"): "nothing to train",
    ("test_nfnet", "ssf"): "no norm layer",
    ("test_nfnet", "lora"): "match no plain Linear or Conv2d",
}
UNMERGEABLE = {("test_nfnet", "tsa"): "standardises its weight"}


@pytest.mark.parametrize(("backbone", "method"), CELLS)
def test_works_or_says_why(backbone, method):
    options, size, family = BACKBONES[backbone]
    model = build(backbone, **options)
    assert sites.family_of(model) == family
    with torch.no_grad():
        before = model(images(size=size))
    if (backbone, method) in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[backbone, method]):
            probe(adapt(model, family, METHODS[method], config_of(method)), size)
        return

    cell = adapt(model, family, METHODS[method], config_of(method))
    model.eval()
    probe(cell, size)
    with torch.no_grad():
        adapted = model(images(size=size))
        assert (distance(adapted, before) < 1e-5) == METHODS[method].exact_at_init
        perturb(cell)
        after = model(images(size=size))
    assert distance(after, adapted) > 1e-4

    if not METHODS[method].mergeable:
        return
    if (backbone, method) in UNMERGEABLE:
        with pytest.raises(RecipeError, match=UNMERGEABLE[backbone, method]):
            merged_state_dict(cell)
        return
    plain = build(backbone, **options)
    plain.load_state_dict(merged_state_dict(cell))
    with torch.no_grad():
        assert distance(plain(images(size=size)), after) < 1e-5


def test_every_refusal_is_of_a_cell_that_is_tested():
    assert {*REFUSED, *UNMERGEABLE} <= set(CELLS)
    assert len(CELLS) == 8 * 10 + 10 * 8
