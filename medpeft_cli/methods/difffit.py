"""DiffFit: train biases and norm layers, and a scale on each branch (Xie et al. 2023, arXiv:2304.06648)."""

import torch
from torch import Tensor, nn

from medpeft_cli.methods.catalogue import DiffFitConfig
from medpeft_cli.methods.inject import Injected, adapters, after, detach, trained_names, unfreeze
from medpeft_cli.methods.selective import is_bias, is_norm
from medpeft_cli.models import sites

NAME = "difffit"
OUTPUTS = {"attn1": "to_out.0", "attn2": "to_out.0", "ff": "net.2"}  # branch of a block → its last Linear


class Scale(nn.Module):
    """y = γ · x, one number per channel, 1 at the start (Xie et al. 2023).

    Args:
        like: Linear whose outputs give channels, device and dtype.

    Shape:
        x: (..., C) → the same, same dtype.
    """

    def __init__(self, like: nn.Linear):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones_like(like.weight[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled."""
        return x * self.gamma.to(x.dtype)


def inject(model: nn.Module, family: str, config: DiffFitConfig) -> Injected:
    """Train every bias and norm layer, and put a scale on the branches of each transformer block.

    The branches are self-attention, cross-attention and feed-forward, before each is added to the residual stream.
    """
    names = unfreeze(model, lambda name, owner: is_bias(name, owner) or is_norm(name, owner))
    hosts = []
    for name, block in sites.unet_blocks(model):
        for branch, output in OUTPUTS.items():
            host = block.get_submodule(branch)
            after(host, NAME, Scale(host.get_submodule(output)))
            hosts.append(f"{name}.{branch}")
            if config.scales == "projections" and branch != "ff":
                for projection in sites.UNET_PROJECTIONS:
                    after(host.get_submodule(projection), NAME, Scale(host.get_submodule(projection)))
                    hosts.append(f"{name}.{branch}.{projection}")
    matched = dict.fromkeys([name.rpartition(".")[0] for name in names] + hosts)
    return Injected(names=trained_names(model), matched=list(matched))


def merge(model: nn.Module) -> None:
    """Fold every scale into the Linear before it, in place: W ← γ · W by rows, b ← γ · b."""
    for name, host in adapters(model, NAME):
        branch = name.rpartition(".")[2]
        layer = host.get_submodule(OUTPUTS[branch]) if branch in OUTPUTS else host
        gamma = detach(host, NAME).gamma
        with torch.no_grad():
            layer.weight.copy_(gamma[:, None] * layer.weight)
            if layer.bias is not None:
                layer.bias.copy_(gamma * layer.bias)
