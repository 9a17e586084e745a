import pytest
import torch
from torch import nn

from medpeft_cli.errors import RecipeError
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


@pytest.mark.parametrize("last", [1, 2])
def test_partial_is_the_last_blocks_and_the_final_norm(last):
    cell = adapted("partial", "vit", build("test_vit", img_size=32, depth=3), last=last)
    expected = {name for name in dict(cell.model.named_parameters())
                if name.startswith(("norm.", *(f"blocks.{3 - place}." for place in range(1, last + 1))))}  # fmt: skip
    assert set(cell.method_names) == expected


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("test_resnet", 0, "layer4.0.conv1.weight"),
        ("test_resnet", 2, "layer3.0.conv1.weight"),
        ("densenet121", 0, "features.denseblock4.denselayer2.norm1.weight"),
        ("densenet121", 1, "features.denseblock4.denselayer1.norm1.weight"),
        ("test_convnext", 0, "stages.3.blocks.1.gamma"),
        ("test_convnext", 1, "stages.3.downsample.0.weight"),
        ("test_efficientnet", 1, "blocks.4.0.conv_pw.weight"),
        ("regnetx_002", 1, "s4.b1.conv1.conv.weight"),
    ],
)
def test_partial_on_a_cnn_is_its_last_stages_and_all_behind_them(name, last, first):
    options = {"block_config": (2, 2, 2, 2)} if name == "densenet121" else {}
    cell = adapted("partial", "cnn", build(name, **options), last=last)
    names = [name for name, _ in cell.model.named_parameters() if name not in cell.head_names]
    assert cell.method_names == names[names.index(first) :]


def test_partial_moves_the_statistics_of_what_it_trains_alone():
    cell = adapted("partial", "cnn")
    buffers = {name: buffer.clone() for name, buffer in cell.model.named_buffers()}
    assert set(cell.moving_names) == {name for name in buffers if name.startswith("layer4.")}
    cell.model.train()
    hold_norms(cell)
    cell.model(images(4))
    moved = {name for name, buffer in cell.model.named_buffers() if not torch.equal(buffer, buffers[name])}
    assert moved == set(cell.moving_names)


@pytest.mark.parametrize(
    ("family", "last", "message"),
    [("vit", 0, "0 on backbone 'test_vit' with 2 blocks, wanted 1 to 2"), ("vit", 3, "wanted 1 to 2"),
     ("cnn", 5, "5 on backbone 'test_resnet' with 4 stages, wanted 0 to 4")],
)  # fmt: skip
def test_partial_refuses_parts_that_are_not_there(family, last, message):
    with pytest.raises(RecipeError, match=f"method.last: .*{message}"):
        adapted("partial", family, last=last)


def test_statistics_adapt_with_the_norm_layer_and_are_saved():
    cell = adapted("norm", "cnn")
    buffers = {name for name, _ in cell.model.named_buffers()}
    assert set(cell.moving_names) == buffers
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in buffers)


@pytest.mark.parametrize("method", ["norm", "bias", "partial"])
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
