import pytest
import torch

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.tsa import ParallelAdapter, inject, merge
from tests.methods.tiny import adapted, build, tiny


class BasicBlock(nn.Module):
    """A residual block by name, around one convolution."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


CONVS = {
    "plain": nn.Conv2d(4, 6, 3, padding=1),
    "stride": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "pointwise": nn.Conv2d(4, 6, 1),
    "wide": nn.Conv2d(4, 6, 7, padding=3),
    "dilated": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "grouped": nn.Conv2d(4, 8, 3, padding=1, groups=2),
    "grouped_square": nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6),
    "square": nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "same": Conv2dSame(4, 6, 3, stride=2),
    "same_five": Conv2dSame(4, 4, 5, stride=2),
    "same_dilated": Conv2dSame(4, 4, 3, stride=2, dilation=2),
}


@pytest.mark.parametrize("form", ["matrix", "vector"])
@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("name", CONVS)
def test_the_adapter_is_a_change_of_the_kernels_centre(name, size, form):
    torch.manual_seed(0)
    conv = CONVS[name]
    block = BasicBlock(type(conv)(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding,
        dilation=conv.dilation, groups=conv.groups,
    ) if not isinstance(conv, Conv2dSame) else Conv2dSame(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride, dilation=conv.dilation,
    ))  # fmt: skip
    model = nn.Sequential(block)
    inject(model, "cnn", METHODS["tsa"].config(form=form))
    nn.init.normal_(block.conv.tsa.alpha)
    x = torch.randn(2, conv.in_channels, size, size)
    expected = model(x)
    merge(model)
    assert not hasattr(block.conv, "tsa")
    torch.testing.assert_close(model(x), expected)


def test_equation():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    adapter = ParallelAdapter(conv, vector=False, init=0)
    nn.init.normal_(adapter.alpha)
    x = torch.randn(2, 4, 8, 8)
    expected = torch.einsum("oi,bihw->bohw", adapter.alpha[:, :, 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(adapter(x), expected)


def test_vector_scales_each_channel():
    adapter = ParallelAdapter(nn.Conv2d(4, 4, 3, padding=1), vector=True, init=1)
    x = torch.randn(2, 4, 8, 8)
    assert adapter.alpha.shape == (4, 1, 1, 1)
    assert torch.equal(adapter(x), x)


@pytest.mark.parametrize("groups", [1, 2])
def test_official_start_is_a_small_identity(groups):
    adapter = ParallelAdapter(nn.Conv2d(4, 4, 3, padding=1, groups=groups), vector=False, init=1e-4)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(adapter(x), 1e-4 * x)


def test_places_are_the_direct_convolutions_of_the_blocks():
    cell = adapted("tsa", "cnn")
    assert "layer3.0.conv3" in cell.matched and "layer1.0.conv1" in cell.matched
    assert not any("downsample" in name or name.startswith("conv1") for name in cell.matched)
    wide = adapted("tsa", "cnn", convs="3x3")
    assert all(wide.model.get_submodule(name).kernel_size == (3, 3) for name in wide.matched)
    assert "layer3.0.conv1" not in wide.matched


def test_grouped_convolutions_keep_their_groups():
    model = build("mobilenetv2_035")
    cell = adapted("tsa", "cnn", model)
    depthwise = [name for name in cell.matched if name.endswith("conv_dw")]
    assert depthwise
    for name in depthwise:
        conv = model.get_submodule(name)
        assert conv.tsa.alpha.shape == (conv.out_channels, 1, 1, 1)


def test_no_squeeze_excite():
    assert not any(".se." in name for name in adapted("tsa", "cnn", build("test_efficientnet")).matched)


def test_a_kernel_without_a_centre_is_refused():
    for conv in (nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, 3, padding=0)):
        with pytest.raises(RecipeError, match="wanted centred"):
            inject(nn.Sequential(BasicBlock(conv)), "cnn", METHODS["tsa"].config())


def test_output_is_the_convolutions_plus_the_adapters():
    cell = adapted("tsa", "cnn", init=1e-4)
    conv, plain = cell.model.layer1[0].conv2, tiny("cnn").layer1[0].conv2
    x = torch.randn(1, 16, 5, 5)
    torch.testing.assert_close(conv(x), plain(x) + functional.conv2d(x, conv.tsa.alpha))
