import pytest
import torch
from torch import nn

from medpeft_cli.methods.ssf import ScaleShift
from tests.methods.tiny import SIZE, adapted, build, images, perturb, tiny


def test_equation_on_tokens_and_maps():
    for axis, x in ((-1, torch.randn(2, 5, 4)), (1, torch.randn(2, 4, 3, 3))):
        pair = ScaleShift(torch.zeros(4), axis, init_std=0.5)
        scale, shift = pair.scale.view(4, 1, 1), pair.shift.view(4, 1, 1)
        expected = x * pair.scale + pair.shift if axis == -1 else x * scale + shift
        assert torch.equal(pair(x), expected)


def test_axis_is_given_where_width_and_channels_agree():
    x = torch.randn(1, 4, 4, 4)
    pair = ScaleShift(torch.zeros(4), axis=1, init_std=0)
    with torch.no_grad():
        pair.scale[2] = 0
    assert not pair(x)[:, 2].any() and pair(x)[:, :, :, 2].any()


def test_places_on_a_vit_are_the_papers():
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    expected = ["patch_embed.proj"] + [f"blocks.{i}.{name}" for i in (0, 1) for name in block] + ["norm"]
    assert adapted("ssf", "vit").matched == expected


def test_places_on_a_cnn_are_its_norm_layers():
    model = tiny("cnn")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert adapted("ssf", "cnn", model).matched == norms


@pytest.mark.parametrize("name", ["test_efficientnet", "test_efficientnet_gn", "test_efficientnet_ln"])
def test_the_pair_acts_before_a_fused_activation(name):
    cell = adapted("ssf", "cnn", build(name))
    with torch.no_grad():
        cell.model.bn1.drop.ssf.shift.fill_(-1e6)
        stem = cell.model.bn1(cell.model.conv_stem(images(size=SIZE)))
    assert stem.abs().max() < 1e-3  # SiLU of a large negative number


def test_an_operator_without_bias_gets_a_scale_alone():
    model = build("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, img_size=SIZE)
    cell = adapted("ssf", "vit", model)
    assert model.blocks[0].attn.qkv.bias is None
    assert "blocks.0.attn.qkv.ssf.scale" in cell.method_names
    assert "blocks.0.attn.qkv.ssf.shift" not in cell.method_names
    assert "blocks.0.attn.proj.ssf.shift" in cell.method_names


def test_equals_scaling_by_hand():
    cell, plain = adapted("ssf", "vit"), tiny("vit")
    perturb(cell)
    pair = cell.model.blocks[0].norm1.ssf
    tokens = torch.randn(2, 5, 64)
    expected = plain.blocks[0].norm1(tokens) * pair.scale + pair.shift
    assert torch.equal(cell.model.blocks[0].norm1(tokens), expected)


def test_official_spread_is_not_the_identity():
    cell, plain = adapted("ssf", "vit", init_std=0.02), tiny("vit")
    scale = torch.cat([p for name, p in cell.trainable() if name.endswith("ssf.scale")])
    assert abs(scale.mean() - 1) < 0.002 and abs(scale.std() - 0.02) < 0.002
    assert not torch.equal(cell.model(images()), plain(images()))
