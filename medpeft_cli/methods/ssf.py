"""SSF: scale and shift the features after every operator (Lian et al. 2022, arXiv:2210.08823, eq. 3)."""

import torch
from torch import nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.catalogue import SSFConfig
from medpeft_cli.methods.inject import Injected, adapters, after, detach, trained_names
from medpeft_cli.models import sites

NAME = "ssf"


class ScaleShift(nn.Module):
    """y = x · scale + shift, one pair per channel (Lian et al. 2022, eq. 3).

    Args:
        like: tensor (C,) or weight (C, …) that gives channels, device and dtype.
        axis: axis of the channels, 1 for maps, -1 for tokens.
        init_std: spread of scale around 1 and of shift around 0; 0 = the identity.
        shift: False leaves the shift out, where the operator has no bias to merge it into.

    Shape:
        x: (..., C) or (B, C, H, W), C on `axis` → the same, same dtype.
    """

    def __init__(self, like: torch.Tensor, axis: int, init_std: float, shift: bool = True):
        super().__init__()
        channels = like.shape[0]
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(channels, device=like.device, dtype=like.dtype))
        self.shift = nn.Parameter(torch.zeros(channels, device=like.device, dtype=like.dtype)) if shift else None
        if init_std > 0:
            nn.init.normal_(self.scale, 1.0, init_std)
            if shift:
                nn.init.normal_(self.shift, 0.0, init_std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x scaled and shifted."""
        shape = (-1,) if self.axis == -1 else (1, -1, 1, 1)
        x = x * self.scale.to(x.dtype).view(shape)
        return x if self.shift is None else x + self.shift.to(x.dtype).view(shape)


def _host(operator: nn.Module) -> nn.Module:
    # timm's norms with a fused activation pass through `drop` before `act`: there the pair is still linear in the norm
    fused = isinstance(operator, sites.NORM_TYPES) and hasattr(operator, "act") and hasattr(operator, "drop")
    return operator.drop if fused else operator


def inject(model: nn.Module, family: str, config: SSFConfig) -> Injected:
    """Put a scale and a shift after every operator of a ViT, after every norm layer of a CNN.

    An operator without a bias gets the scale alone, so that the state dict keeps its keys when merged.

    Raises:
        RecipeError: if a CNN has no norm layers.
    """
    operators = sites.operators(model, family)
    if not operators:
        raise RecipeError(f"method 'ssf': backbone {sites.backbone_name(model)!r} has no norm layer to scale")
    for _, operator in operators:
        has_bias = getattr(operator, "bias", None) is not None
        adapter = ScaleShift(operator.weight, sites.channel_axis(operator), config.init_std, shift=has_bias)
        after(_host(operator), NAME, adapter)
    return Injected(names=trained_names(model), matched=[name for name, _ in operators])


def merge(model: nn.Module) -> None:
    """Fold every pair into its operator, in place: W ← scale · W by rows, b ← scale · b + shift.

    Raises:
        RecipeError: if an operator standardises its weight, so that a scale of the stored weight has no effect.
    """
    for name, host in adapters(model, NAME):
        owner_name = name.removesuffix(".drop")
        operator = model.get_submodule(owner_name)
        if isinstance(operator, sites.STANDARDISED):
            raise RecipeError(f"{owner_name}: {type(operator).__name__} standardises its weight, SSF cannot be merged")
        pair = detach(host, NAME)
        with torch.no_grad():
            operator.weight.copy_(operator.weight * pair.scale.view(-1, *(1,) * (operator.weight.ndim - 1)))
            if pair.shift is not None:
                operator.bias.copy_(operator.bias * pair.scale + pair.shift)
