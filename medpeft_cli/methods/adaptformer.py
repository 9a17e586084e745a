"""AdaptFormer: a bottleneck beside the MLP of each block (Chen et al. 2022, arXiv:2205.13535)."""

import math

import torch
from torch import nn
from torch.nn import functional

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.catalogue import AdaptFormerConfig
from medpeft_cli.methods.inject import Injected, beside, trained_names
from medpeft_cli.models import sites

NAME = "adaptformer"


class Bottleneck(nn.Module):
    """Parallel bottleneck of AdaptFormer (Chen et al. 2022, eq. 3 and 4).

    y = scale · (relu(x W_dᵀ + b_d) W_uᵀ + b_u), added to the block's output. W_u and both biases start at zero, so
    the branch starts at zero and only the up projection has a gradient at the first step.

    Args:
        embed_dim: D, width of the tokens.
        bottleneck: H, width inside.
        scale: fixed multiplier of the branch.
        dropout: probability, after the relu.
        like: tensor that gives device and dtype.

    Shape:
        x: (..., D) → (..., D), same dtype and device as x.
    """

    def __init__(self, embed_dim: int, bottleneck: int, scale: float, dropout: float, like: torch.Tensor):
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.down = nn.Linear(embed_dim, bottleneck, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(bottleneck, embed_dim, device=like.device, dtype=like.dtype)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the branch's output for tokens x."""
        x = functional.relu(self.down(x))  # (..., H)
        return self.up(functional.dropout(x, self.dropout, self.training)) * self.scale


def inject(model: nn.Module, family: str, config: AdaptFormerConfig) -> Injected:
    """Put a bottleneck beside the MLP of every block; layer scale and drop path do not act on it.

    Raises:
        RecipeError: if the bottleneck is not narrower than the tokens of a block.
    """
    blocks = sites.transformer_blocks(model)
    branches = []
    for name, block in blocks:
        weight = next(module.weight for module in block.mlp.modules() if isinstance(module, nn.Linear))
        embed_dim = weight.shape[1]
        if config.bottleneck >= embed_dim:
            raise RecipeError(
                f"method.bottleneck: {config.bottleneck} at {name}, wanted less than its width {embed_dim}"
            )
        branches.append(Bottleneck(embed_dim, config.bottleneck, config.scale, config.dropout, weight))
    for (_, block), branch in zip(blocks, branches, strict=True):
        beside(block, NAME, branch, reads=block.mlp if config.branch_input == "norm" else block.norm2)
    return Injected(names=trained_names(model), matched=[name for name, _ in blocks])
