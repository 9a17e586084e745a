"""LST: a small network beside a frozen ViT climbs its blocks' outputs (Sung et al. 2022, arXiv:2206.06522)."""

from functools import partial

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import torch
from timm.models.vision_transformer import Block
from torch import nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.catalogue import LSTConfig
from medpeft_cli.methods.inject import Injected, trained_names
from medpeft_cli.models import sites

NAME = "lst"
TEMPERATURE = 0.1  # of the gates, as the official code has it


class Ladder(nn.Module):
    """Side network of LST (Sung et al. 2022, section 3), a function of the backbone's hidden states alone.

    s = D₀(h₀); then for each block i: s ← Blockᵢ(g s + (1 − g) Dᵢ(hᵢ)), g = sigmoid(αᵢ / 0.1), αᵢ = 0 at the start;
    the output U(LN(s)) takes the place of the backbone's last tokens. h₀ are the embedded tokens, hᵢ the output of
    block i, and each Blockᵢ is a transformer block of the width C / r.

    Args:
        depth: L, blocks of the backbone.
        embed_dim: C, width of its tokens.
        num_heads: of every attention, as in the backbone.
        reduction: r; C / r is a multiple of `num_heads`.
        like: tensor that gives device and dtype.

    Shape:
        hidden: (B, L + 1, N, C) → (B, N, C), same dtype.
    """

    def __init__(self, depth: int, embed_dim: int, num_heads: int, reduction: int, like: torch.Tensor):
        super().__init__()
        kind = {"device": like.device, "dtype": like.dtype}
        width = embed_dim // reduction
        self.gates = nn.Parameter(torch.zeros(depth, **kind))
        self.down = nn.ModuleList(nn.Linear(embed_dim, width, **kind) for _ in range(depth + 1))
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True, **kind) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, **kind)
        self.up = nn.Linear(width, embed_dim, **kind)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.below: list[torch.Tensor] = []  # inputs of the backbone's blocks so far, in a forward pass

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the tokens that the classifier reads."""
        embedded, *outputs = hidden.unbind(1)
        side = self.down[0](embedded)  # (B, N, C / r)
        gates = torch.sigmoid(self.gates / TEMPERATURE)
        for gate, down, block, output in zip(gates, self.down[1:], self.blocks, outputs, strict=True):
            side = block(gate * side + (1 - gate) * down(output))
        return self.up(self.norm(side))


def inject(model: nn.Module, family: str, config: LSTConfig) -> Injected:
    """Put the side network beside a plain ViT; its output takes the place of that of the final norm.

    Nothing below it is trained, so that autograd keeps no tensor of the backbone but the hidden states.

    Raises:
        RecipeError: if the blocks are not one row of equal width, or `reduction` does not fit the width.
    """
    found = sites.transformer_blocks(model)
    if [name for name, _ in found] != [f"blocks.{place}" for place in range(len(found))] or not hasattr(model, "norm"):
        raise RecipeError(
            f"method 'lst' does not fit backbone {sites.backbone_name(model)!r}; wanted a plain ViT: one row of blocks "
            "of equal width, and a final norm"
        )
    blocks = [block for _, block in found]
    num_heads = blocks[0].attn.num_heads
    weight = next(module.weight for module in blocks[0].mlp.modules() if isinstance(module, nn.Linear))
    embed_dim = weight.shape[1]
    if embed_dim % (config.reduction * num_heads):
        raise RecipeError(
            f"method.reduction: {config.reduction}, wanted one that leaves {num_heads} heads of whole width: "
            f"a divisor of {embed_dim // num_heads}"
        )
    model.add_module(NAME, Ladder(len(blocks), embed_dim, num_heads, config.reduction, weight))
    for place, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(_remember, model.lst, place))
    model.norm.register_forward_hook(partial(_replace, model.lst))
    return Injected(names=trained_names(model), matched=[name for name, _ in found])


def _remember(ladder: Ladder, place: int, block: nn.Module, args: tuple) -> None:
    del ladder.below[place:]  # of a forward pass that was interrupted
    ladder.below.append(args[0])


def _replace(ladder: Ladder, norm: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    hidden = torch.stack([*ladder.below, args[0]], dim=1)  # (B, L + 1, N, C)
    ladder.below.clear()
    return ladder(hidden)
