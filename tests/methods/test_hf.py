"""HF peft: which layers are adapted, what is refused."""

import pytest
import torch

from medpeft_cli import compat  # noqa: F401  must come before diffusers

# isort: split
from diffusers import UNet2DConditionModel
from torch import nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.methods.merge import merged_state_dict
from tests.methods.tiny import adapted, build, distance, outputs, perturb, tiny
from tests.toys import toy_unet


def test_lora_on_the_fused_projection_is_its_equation():
    cell, plain = adapted("lora", "vit", rank=4, alpha=8), tiny("vit")
    perturb(cell)
    layer, x = cell.model.blocks[0].attn.qkv, torch.randn(2, 5, 64)
    A, B = layer.lora_A.default.weight, layer.lora_B.default.weight  # (4, 64), (192, 4)
    expected = plain.blocks[0].attn.qkv(x) + (8 / 4) * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected)


def test_default_targets():
    assert adapted("lora", "vit").matched == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    model = tiny("cnn")
    stages = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and name.startswith("layer")]
    assert adapted("lora", "cnn", model).matched == stages


def test_default_targets_leave_grouped_convolutions_and_squeeze_excite():
    cell = adapted("lora", "cnn", build("test_efficientnet"))
    layers = [cell.model.get_submodule(name) for name in cell.matched]
    assert all(layer.base_layer.groups == 1 for layer in layers)
    assert not any(".se." in name or name == "conv_stem" for name in cell.matched)
    assert any(name.endswith("conv_pwl") for name in cell.matched)


def test_default_targets_of_convnext_are_its_pointwise_layers():
    cell = adapted("lora", "cnn", build("test_convnext"))
    assert {name.rpartition(".")[2] for name in cell.matched} == {"fc1", "fc2", "1"}  # 1: downsampling


def test_a_pattern_matches_whole_names():
    cell = adapted("lora", "vit", targets=r"blocks\.1\..*")
    assert cell.matched == [f"blocks.1.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def test_listed_names_match_endings_and_the_unmatched_are_told():
    cell = adapted("lora", "vit", targets=("attn.proj", "blocks.0.mlp.fc1", "nothing", "roj"))
    assert cell.matched == ["blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.1.attn.proj"]
    assert cell.unmatched == ["nothing", "roj"]
    assert not any("patch_embed" in name for name in cell.method_names)


def test_a_name_that_ends_like_another_is_not_adapted_with_it():
    cell = adapted("lora", "cnn", targets=r"layer1\.0\.conv1")
    assert cell.matched == ["layer1.0.conv1"]
    assert {name.rpartition(".lora_")[0] for name in cell.method_names} == {"layer1.0.conv1"}


@pytest.mark.parametrize("targets", [r".*nothing.*", ("nothing", "nowhere"), "head", ("head",), "attn", ("norm1",)])
def test_targets_that_match_no_layer_are_refused(targets):
    with pytest.raises(RecipeError, match="match no plain Linear or Conv2d") as error:
        adapted("lora", "vit", targets=targets)
    assert "blocks.0.attn.qkv" in error.value.hint


def test_the_classifier_is_never_adapted():
    cell = adapted("lora", "vit", targets=".*")
    assert "head" not in cell.matched and isinstance(cell.model.head, nn.Linear)
    assert cell.head_names == ["head.weight", "head.bias"]


def test_oft_is_refused_on_wide_kernels_and_defaults_to_pointwise_ones():
    with pytest.raises(RecipeError, match="not the identity at the start"):
        adapted("oft", "cnn", targets=r"layer1\.0\.conv1")
    model = build("resnext50_32x4d", layers=(1, 1, 1, 1))
    cell = adapted("oft", "cnn", model)
    assert {name.rpartition(".")[2] for name in cell.matched} == {"conv1", "conv3", "0"}  # 0: downsampling


def test_oft_needs_a_block_within_the_layer():
    with pytest.raises(RecipeError, match="method.block_size: 32, wanted at most the 16 inputs"):
        adapt(tiny("cnn"), "cnn", METHODS["oft"], METHODS["oft"].config())


@pytest.mark.parametrize(
    ("name", "why"),
    [("osf", "leaves convolutions as they are and would train nothing"), ("c3a", "takes Linear layers only")],
)
def test_linear_only_methods_say_why_convolutions_are_refused(name, why):
    with pytest.raises(RecipeError, match=rf"'{name}' does not fit backbone 'test_resnet' \(cnn\): .*{why}"):
        adapted(name, "cnn")


def test_oft_without_a_layer_that_it_can_adapt_says_why():
    model = tiny("cnn")
    model.layer1[0].downsample = model.layer2 = model.layer3 = model.layer4 = nn.Identity()
    with pytest.raises(
        RecipeError, match="its default targets match no .* 'test_resnet'; HF peft folds overlapping patches"
    ):
        adapted("oft", "cnn", model)


def test_nothing_to_train_is_refused():
    with pytest.raises(RecipeError, match="HF peft trains nothing in patch_embed.proj"):
        adapted("osf", "vit", targets="patch_embed.proj")


def test_what_peft_refuses_is_told_with_the_layer():
    with pytest.raises(RecipeError, match="'c3a': HF peft refuses blocks.0.attn.qkv.*block size"):
        adapted("c3a", "vit", block_size=50)


def test_ia3_scales_the_input_of_the_feed_forward_layer():
    cell = adapted("ia3", "vit", targets=("qkv", "fc2"))
    block = cell.model.blocks[0]
    assert block.attn.qkv.ia3_l.default.shape == (192, 1)
    assert block.mlp.fc2.ia3_l.default.shape == (1, 192)


def test_beft_cannot_be_merged_where_there_is_no_bias():
    model = build("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, img_size=32)
    with pytest.raises(RecipeError, match="'beft' cannot be merged here: Base layer has no bias"):
        merged_state_dict(adapted("beft", "vit", model))


def test_dora_is_refused_where_it_would_divide_by_zero():
    model = tiny("vit")
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight[3] = 0
    with pytest.raises(RecipeError, match=r"1 targets have outputs whose weights are all zero \(blocks.1.attn.qkv"):
        adapted("dora", "vit", model)
    adapted("lora", "vit", model)


CONVOLUTIONS = r".*resnets\.\d\.conv\d"


def test_default_targets_of_a_unet_are_the_four_projections_of_each_attention():
    cell = adapted("lora", "unet", toy_unet())
    attentions = [name for name, module in toy_unet().named_modules() if name.endswith(("attn1", "attn2"))]
    assert cell.matched == [f"{name}.{last}" for name in attentions for last in ("to_q", "to_k", "to_v", "to_out.0")]


@pytest.mark.parametrize("name", ["lora", "dora", "adalora", "loha", "lokr", "hira", "ia3", "boft", "hra"])
def test_convolutions_of_a_unet_can_be_adapted_and_merged(name):
    cell = adapted(name, "unet", targets=CONVOLUTIONS)
    assert len(cell.matched) == 2 * 8
    perturb(cell)
    plain = tiny("unet")
    plain.load_state_dict(merged_state_dict(cell))
    with torch.no_grad():
        assert distance(outputs(plain), outputs(cell.model)) < 1e-5
        assert distance(outputs(plain), outputs(tiny("unet"))) > 1e-6


def test_oft_is_refused_on_the_wide_kernels_of_a_unet():
    with pytest.raises(RecipeError, match=r"conv1 has a kernel of \(3, 3\), wanted 1×1"):
        adapted("oft", "unet", targets=CONVOLUTIONS)


def test_boft_is_refused_where_its_matrices_would_fill_the_memory():
    with torch.device("meta"):
        model = UNet2DConditionModel(cross_attention_dim=768)  # widths of Stable Diffusion 1.5
        config = METHODS["boft"].config(targets=r".*resnets.*(conv\d|conv_shortcut)")
        with pytest.raises(
            RecipeError, match=r"a matrix of \(inputs × kernel\)² numbers for each layer, here \d\d GiB"
        ):
            adapt(model, "unet", METHODS["boft"], config)


def test_linear_only_methods_are_refused_on_convolutions_of_a_unet():
    with pytest.raises(RecipeError, match="'vera': HF peft refuses .*resnets"):
        adapted("vera", "unet", targets=CONVOLUTIONS)


def test_ia3_scales_the_input_of_a_unets_feed_forward_layer():
    cell = adapted("ia3", "unet", targets=("to_q", "ff.net.2"))
    block = cell.model.mid_block.attentions[0].transformer_blocks[0]
    assert block.attn1.to_q.ia3_l.default.shape == (32, 1)
    assert block.ff.net[2].ia3_l.default.shape == (1, 128)
