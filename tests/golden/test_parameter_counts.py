"""The paper's trainable parameters (Tables 2 and 6; paper.md §6.6) and HF peft's, counted on the meta device."""

from functools import cache

import pytest
import torch

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import timm

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt

HEAD = 3  # classes of the paper's counts
VIT_B, VIT_L, VIT_H = "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"


@cache
def counts(backbone: str, method: str, parameters: tuple = ()) -> dict[str, int]:
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=HEAD)
        family = "cnn" if backbone.startswith("resnet") else "vit"
        config = METHODS[method].config(**dict(parameters))
        return adapt(model, family, METHODS[method], config).counts()


@pytest.mark.parametrize(
    ("method", "parameters", "printed"),
    [("full", (), 23_514_179), ("linear", (), 6_147), ("bias", (), 32_707), ("norm", (), 59_267)],
)
def test_resnet50_with_its_head(method, parameters, printed):
    count = counts("resnet50", method, parameters)
    assert count["method"] + count["head"] == printed


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("partial", (("last", 0),), 4_462_592),
        ("partial", (), 14_964_736),
        ("partial", (("last", 2),), 22_063_104),
        ("tsa", (), 10_616_832),
        ("tsa", (("convs", "3x3"),), 1_257_472),
        ("tsa", (("convs", "3x3"), ("form", "vector")), 3_776),
        ("ssf", (), 53_120),
        ("lora", (("rank", 8),), 633_856),
        ("lora", (("rank", 16),), 1_267_712),
        ("lora", (("rank", 16), ("targets", r"layer\d\.\d+\.conv2")), 604_160),
        ("dora", (("rank", 8),), 660_352),
        ("adalora", (), 951_408),
        ("loha", (), 1_267_712),
        ("loha", (("effective_conv", True),), 802_816),
        ("lokr", (), 62_208),
        ("ia3", (), 26_496),
        ("hra", (), 421_888),
        ("hira", (("rank", 8),), 633_856),
    ],
)
def test_resnet50_without_its_head(method, parameters, expected):
    assert counts("resnet50", method, parameters)["method"] == expected


@pytest.mark.parametrize(
    ("method", "parameters", "base", "large", "huge"),
    [
        ("full", (), 85_800_963, 303_304_707, 630_768_643),
        ("attention", (), 28_502_019, 100_966_403, 210_211_843),
        ("bias", (), 105_219, 275_459, 456_963),
    ],
)
def test_vit_with_its_head(method, parameters, base, large, huge):
    found = [counts(name, method, parameters) for name in (VIT_B, VIT_L, VIT_H)]
    assert [count["method"] + count["head"] for count in found] == [base, large, huge]


@pytest.mark.parametrize(
    ("method", "parameters", "base", "large", "huge"),
    [
        ("linear", (), 0, 0, 0),
        ("lora", (), 589_824, 1_572_864, 2_621_440),
        ("ssf", (), 205_824, 544_768, 906_240),
        ("adaptformer", (("bottleneck", 5),), 101_436, 270_456, 450_720),
        ("norm", (), 38_400, 100_352, 166_400),
    ],
)
def test_vit_without_its_head(method, parameters, base, large, huge):
    assert [counts(name, method, parameters)["method"] for name in (VIT_B, VIT_L, VIT_H)] == [base, large, huge]


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("partial", (), 7_089_408),
        ("partial", (("last", 2),), 14_177_280),
        ("partial", (("last", 4),), 28_353_024),
        ("attention", (("pos_embed", False),), 28_348_416),
        ("lst", (), 2_376_492),
        ("adaptformer", (), 1_189_632),
        ("lora", (("rank", 8),), 294_912),
        ("lora", (("rank", 8), ("targets", ("qkv", "attn.proj"))), 442_368),
        ("lora", (("rank", 8), ("targets", ("qkv", "attn.proj", "fc1", "fc2"))), 1_179_648),
        ("rslora", (("rank", 8),), 294_912),
        ("dora", (("rank", 8),), 322_560),
        ("loha", (), 589_824),
        ("lokr", (), 21_504),
        ("ia3", (), 27_648),
        ("ia3", (("targets", ("qkv", "attn.proj", "fc1", "fc2")),), 110_592),
        ("vera", (), 30_720),
        ("oft", (), 142_848),
        ("hra", (), 73_728),
        ("hira", (("rank", 8),), 294_912),
        ("adalora", (), 442_512),
        ("delora", (), 294_924),
        ("miss", (("rank", 8),), 221_184),
        ("randlora", (), 230_400),
        ("fourierft", (), 12_000),
        ("road", (), 27_648),
        ("glora", (), 663_672),
        ("gralora", (), 1_179_648),
        ("c3a", (), 331_776),
        ("pvera", (), 33_792),
    ],
)
def test_vit_base_extras(method, parameters, expected):
    assert counts(VIT_B, method, parameters)["method"] == expected


def test_counts_of_another_width():
    tiny = "vit_tiny_patch16_224"
    assert counts(tiny, "ssf")["method"] == 51_456
    assert [counts(tiny, "partial", (("last", k),))["method"] for k in (1, 2, 4)] == [445_248, 890_112, 1_779_840]
    assert counts(tiny, "lst")["method"] == 151_764
    assert counts(tiny, "adaptformer")["method"] == 297_984
    assert counts(tiny, "attention")["method"] == 1_816_512
    assert counts(tiny, "lora", (("rank", 8),))["method"] == 73_728
