"""TSA: task-specific adapters beside the convolutions of residual blocks (Li et al. 2022, arXiv:2107.00358)."""

import torch
from torch import nn
from torch.nn import functional

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.catalogue import TSAConfig
from medpeft_cli.methods.inject import Injected, adapters, beside, detach, trained_names
from medpeft_cli.models import sites

NAME = "tsa"


class ParallelAdapter(nn.Module):
    """alpha of TSA: y = conv(x) + alpha ∗ x, a 1×1 convolution where the kernel's centre is (Li et al. 2022, eq. 3).

    Args:
        conv: the convolution beside it; gives channels, groups, stride, kernel and padding.
        vector: one number per channel instead of a matrix.
        init: multiple of the identity at the start; 0 = zero.

    Shape:
        x: (B, C_in, H, W) → (B, C_out, H', W') as the convolution makes it.
    """

    def __init__(self, conv: nn.Conv2d, vector: bool, init: float):
        super().__init__()
        self.same = sites.pads_same(conv)
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.groups = conv.in_channels if vector else conv.groups
        shape = (conv.out_channels, conv.in_channels // self.groups, 1, 1)
        self.alpha = nn.Parameter(torch.zeros(shape, device=conv.weight.device, dtype=conv.weight.dtype))
        if init > 0:
            with torch.no_grad():
                nn.init.dirac_(self.alpha, groups=self.groups).mul_(init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added to the convolution's output for the map x."""
        if self.same:
            top, left = (self._offset(axis, x.shape[2 + axis]) for axis in (0, 1))
            x = x[:, :, top:, left:]
        return functional.conv2d(x, self.alpha.to(x.dtype), stride=self.stride, groups=self.groups)

    def _offset(self, axis: int, size: int) -> int:
        """Return the index of the pixel under the kernel's centre, where "same" padding pads less before than after."""
        stride, reach = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1)
        padding = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        return reach // 2 - padding // 2


def _fits(conv: nn.Conv2d) -> bool:
    if not all(size % 2 for size in conv.kernel_size):
        return False
    if sites.pads_same(conv) or conv.padding == "same":
        return True
    return all(2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size, strict=True))


def inject(model: nn.Module, family: str, config: TSAConfig) -> Injected:
    """Put an adapter beside the convolutions of every residual block.

    A vector needs as many output as input channels; elsewhere a matrix is used.

    Raises:
        RecipeError: if there are no residual blocks, or a kernel has no centre on the input's grid.
    """
    convs = [
        (name, conv)
        for name, conv in sites.block_convolutions(model)
        if config.convs == "block" or conv.kernel_size == (3, 3)
    ]
    if not convs:
        kind = "convolution" if config.convs == "block" else "3×3 convolution"
        raise RecipeError(
            f"method 'tsa' does not fit backbone {sites.backbone_name(model)!r}; no residual block with a {kind} found"
        )
    for name, conv in convs:
        if not _fits(conv):
            raise RecipeError(
                f"method 'tsa': {name} pads {conv.padding} for a kernel of {conv.kernel_size}, wanted centred"
            )
    for _, conv in convs:
        vector = config.form == "vector" and conv.in_channels == conv.out_channels
        beside(conv, NAME, ParallelAdapter(conv, vector, config.init))
    return Injected(names=trained_names(model), matched=[name for name, _ in convs])


def merge(model: nn.Module) -> None:
    """Add every alpha to the centre of its kernel, in place.

    Raises:
        RecipeError: if a convolution standardises its weight, so that the sum would be standardised too.
    """
    for name, conv in adapters(model, NAME):
        if isinstance(conv, sites.STANDARDISED):
            raise RecipeError(f"{name}: {type(conv).__name__} standardises its weight, TSA cannot be merged")
        alpha = detach(conv, NAME).alpha.detach()[:, :, 0, 0]
        if alpha.shape[1] != conv.weight.shape[1]:  # a vector: the diagonal of each group's matrix
            per_group = conv.weight.shape[1]
            columns = torch.arange(len(alpha), device=alpha.device) % per_group
            alpha = torch.zeros_like(conv.weight[:, :, 0, 0]).scatter_(1, columns[:, None], alpha)
        row, column = (size // 2 for size in conv.kernel_size)
        with torch.no_grad():
            conv.weight[:, :, row, column] += alpha
