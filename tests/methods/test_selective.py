import pytest
import torch
from torch import nn

from medpeft_cli.methods.adapt import hold_norms
from tests.methods.tiny import adapted, build, images, tiny
from tests.toys import toy_unet


def names(model, kinds):
    return {f"{path}.{name}" for path, module in model.named_modules() if isinstance(module, kinds)
            for name, _ in module.named_parameters(recurse=False)}  # fmt: skip


def test_bias_is_every_parameter_named_bias():
    cell = adapted("bias", "vit")
    expected = {name for name, _ in cell.model.named_parameters() if name.endswith(".bias")}
    assert {*cell.method_names, "head.bias"} == expected
    assert "patch_embed.proj.bias" in cell.method_names and "blocks.0.norm1.bias" in cell.method_names


def test_bias_on_a_resnet_is_the_shift_of_its_batch_norms():
    cell = adapted("bias", "cnn")
    assert set(cell.method_names) == {name for name in names(cell.model, nn.BatchNorm2d) if name.endswith("bias")}


@pytest.mark.parametrize(("family", "kind"), [("cnn", nn.BatchNorm2d), ("vit", nn.LayerNorm)])
def test_norm_is_the_affine_part_of_every_norm_layer(family, kind):
    cell = adapted("norm", family)
    assert set(cell.method_names) == names(cell.model, kind)


def test_norm_finds_group_norm_and_layer_norm_of_timm():
    for name in ("test_efficientnet_gn", "test_efficientnet_ln", "test_convnext"):
        cell = adapted("norm", "cnn", build(name))
        assert set(cell.method_names) == names(cell.model, (nn.GroupNorm, nn.LayerNorm))


def test_attention_leaves_mlp_norms_and_patch_embedding():
    cell = adapted("attention", "vit")
    assert set(cell.method_names) - {"pos_embed"} == {
        name for name, _ in cell.model.named_parameters() if ".attn." in name
    }
    assert "pos_embed" in cell.method_names
    assert "pos_embed" not in adapted("attention", "vit", pos_embed=False).method_names


def test_linear_trains_the_classifier_on_features_that_do_not_move():
    cell = adapted("linear", "cnn")
    cell.model.train()
    hold_norms(cell)
    before = cell.model.forward_features(images(4))
    cell.model(images(4)).sum().backward()
    assert torch.equal(cell.model.forward_features(images(4)), before)
    assert cell.method_names == [] and cell.head_names == ["fc.weight", "fc.bias"]


def test_statistics_adapt_with_the_norm_layer_and_are_saved():
    cell = adapted("norm", "cnn")
    buffers = {name for name, _ in cell.model.named_buffers()}
    assert set(cell.moving_names) == buffers
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in buffers)


@pytest.mark.parametrize("method", ["norm", "bias"])
def test_statistics_can_be_held(method):
    cell = adapted(method, "cnn", statistics="hold")
    assert cell.moving_names == []
    before = {name: buffer.clone() for name, buffer in cell.model.named_buffers()}
    cell.model.train()
    hold_norms(cell)
    cell.model(images(4))
    assert all(torch.equal(buffer, before[name]) for name, buffer in cell.model.named_buffers())


def test_hold_norms_leaves_adapting_layers_in_training_mode():
    cell = adapted("full", "cnn")
    cell.model.train()
    hold_norms(cell)
    assert all(module.training for module in cell.model.modules())


def test_a_distilled_deit_has_two_classifiers():
    model = build("deit_tiny_distilled_patch16_224", depth=1, embed_dim=64, num_heads=2, img_size=32)
    assert adapted("linear", "vit", model).head_names == [
        "head.weight",
        "head.bias",
        "head_dist.weight",
        "head_dist.bias",
    ]


def test_matched_modules_are_named():
    cell = adapted("norm", "vit")
    assert cell.matched == [f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)] + ["norm"]
    assert len(adapted("bias", "cnn").matched) == sum(isinstance(m, nn.BatchNorm2d) for m in tiny("cnn").modules())


def by_name(model, *words):
    """The paper's rules for U-Nets, which look at names (p. 18–20)."""
    return {name for name, _ in model.named_parameters() if any(word in name for word in words)}


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_rules_on_a_unet_are_the_papers(kind):
    def chosen(method, **parameters):
        cell = adapted(method, "unet", toy_unet(kind), **parameters)
        assert cell.head_names == cell.moving_names == []
        return set(cell.method_names)

    plain = toy_unet(kind)
    biases = {name for name, _ in plain.named_parameters() if name.split(".")[-1] == "bias"}
    assert chosen("bias") == biases
    assert chosen("norm") == by_name(plain, "norm")
    assert chosen("attention") == by_name(plain, "attentions")
    assert chosen("bias_norm_attention") == biases | by_name(plain, "norm", "attentions")
    assert chosen("full") == {name for name, _ in plain.named_parameters()}
    assert chosen("attention", scope="attention") == by_name(plain, ".attn1.", ".attn2.")
    assert chosen("bias_norm_attention", scope="attention") == biases | by_name(plain, "norm", ".attn1.", ".attn2.")
