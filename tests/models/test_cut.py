"""A network is cut right below what is trained, and both parts together give what the whole gives."""

import pytest

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import timm
import torch
from torch import nn

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.models import sites
from medpeft_cli.models.cut import find_cut

SIZE = 32


def adapted(name, method="linear", trained=(), **options):
    """A small network of random weights; `trained` are modules beside the head."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options)
    found = adapt(model, sites.family_of(model), METHODS[method], METHODS[method].config())
    for module in trained:
        for key, parameter in model.get_submodule(module).named_parameters(module):
            parameter.requires_grad_(True)
            found.method_names.append(key)
    return found


VIT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 4}


@pytest.mark.parametrize(
    ("name", "options", "trained", "expected"),
    [
        ("vit_tiny_patch16_224", VIT, [], "head"),
        ("vit_tiny_patch16_224", VIT, ["blocks.3", "norm"], "blocks.3"),
        ("vit_tiny_patch16_224", VIT, ["norm"], "norm"),
        ("resnet10t", {}, [], "fc"),
        ("resnet10t", {}, ["layer4"], "layer4.0"),
        ("vit_tiny_patch16_224", VIT | {"global_pool": "avg"}, [], "head"),  # behind a norm that is a part of the head
        ("resnetv2_18", {}, [], "head.fc"),
        ("convnext_atto", {}, [], "head.fc"),
        ("convnext_atto", {}, ["stages.3"], "stages.3"),
        ("efficientnet_lite0", {}, ["blocks.6", "conv_head"], "blocks.6"),
    ],
)
def test_where_it_is_cut(name, options, trained, expected):
    check_cut(adapted(name, trained=trained, **options), expected)


@pytest.mark.parametrize(
    ("name", "options", "method", "expected"),
    [
        ("vit_tiny_patch16_224", VIT, "partial", "blocks.3"),
        ("resnet10t", {}, "partial", "layer4.0"),
        ("vit_tiny_patch16_224", VIT | {"img_size": 64}, "lst", "lst"),
        ("vit_tiny_patch16_224", VIT | {"proj_drop_rate": 0.1, "drop_path_rate": 0.1}, "lst", "lst"),
        ("vit_tiny_patch16_224", VIT | {"proj_drop_rate": 0.1, "patch_drop_rate": 0.5}, "lst", "lst"),
        ("deit_tiny_distilled_patch16_224", VIT, "lst", "lst"),
    ],
)
def test_methods_whose_lower_part_is_frozen(name, options, method, expected):
    check_cut(adapted(name, method, **options), expected, options.get("img_size", SIZE))


def check_cut(found, expected, size=SIZE):
    cut = find_cut(found, size)
    assert cut.name == expected
    model = found.model.eval()
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(cut.rest(model, cut.below(model, images)), model(images))
    below = {key for key in model.state_dict() if cut.is_below(key)}
    assert below and not below & {key for key, _ in found.trainable()}
    with torch.no_grad():  # what is said to lie below decides what comes from below, and nothing else does
        hidden = cut.below(model, images)
        for key, tensor in model.state_dict().items():
            if key not in below:
                tensor.add_(1)
        assert torch.equal(cut.below(model, images), hidden)


@pytest.mark.parametrize(
    ("name", "options", "method", "trained"),
    [
        ("vit_tiny_patch16_224", VIT, "full", []),  # nothing is frozen
        ("vit_tiny_patch16_224", VIT | {"patch_size": 4}, "lora", []),  # the patch embedding alone
        ("resnet10t", {}, "norm", []),  # statistics move from the stem on
        ("resnet10t", {"drop_block_rate": 0.1}, "partial", []),
        ("vit_tiny_patch16_224", VIT | {"proj_drop_rate": 0.1}, "partial", []),  # random below
        ("vit_tiny_patch16_224", VIT | {"patch_drop_rate": 0.5}, "partial", []),
        ("vit_tiny_patch16_224", VIT | {"drop_path_rate": 0.1}, "partial", []),
        ("deit_tiny_distilled_patch16_224", VIT, "linear", []),  # two classifiers
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, "partial", []),  # as it is by default
    ],
)
def test_what_is_not_cut(name, options, method, trained):
    found = adapted(name, method, trained, **options)
    modes = [module.training for module in found.model.modules()]
    assert find_cut(found, options.get("img_size", SIZE)) is None
    assert [module.training for module in found.model.modules()] == modes


def test_dropout_below_does_not_matter_to_linear_probing():
    assert find_cut(adapted("vit_tiny_patch16_224", **VIT, proj_drop_rate=0.1), SIZE).name == "head"


def test_nothing_above_the_cut_is_computed_below():
    found = adapted("vit_tiny_patch16_224", trained=["blocks.3"], **VIT)
    cut = find_cut(found, SIZE)

    def refuse(*_):
        raise AssertionError("computed")

    found.model.blocks[3].attn.register_forward_hook(refuse)
    cut.below(found.model, torch.rand(1, 3, SIZE, SIZE))


def test_backward_never_runs_below_the_lowest_trained_tensor():
    found = adapted("vit_tiny_patch16_224", trained=["blocks.2"], **VIT)
    graph = set()  # of what has to be remembered for the backward pass, and is gone through in it

    for name, module in found.model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, inputs, y, name=name: graph.add(name) if y.requires_grad else None)
    found.model(torch.rand(2, 3, SIZE, SIZE)).sum().backward()
    linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert graph == {"head", *(f"blocks.{block}.{name}" for block in (2, 3) for name in linears)}
