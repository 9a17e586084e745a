"""SV-Diff: shift the singular values of every weight (Han et al. 2023, arXiv:2303.11305)."""

import torch
from torch import Tensor, nn

from medpeft_cli.methods.catalogue import SVDiffConfig
from medpeft_cli.methods.inject import Injected, adapters, detach, reparametrise, trained_names
from medpeft_cli.models import sites

NAME = "svdiff"


class SpectralShift(nn.Module):
    """W' = U · diag(relu(σ + δ)) · Vᵀ of a weight W = U · diag(σ) · Vᵀ; δ is trained (Han et al. 2023).

    Computed as W + U · diag(relu(σ + δ) − σ) · Vᵀ: what the decomposition rounds away is not lost, and δ = 0 is exactly
    the identity. U, σ (descending) and V are computed again from the weight, in float64, wherever the adapter is
    built; δ alone is saved.

    Args:
        weight: W, seen as (out, in · k · k); the vector of a norm layer as one row (1, C) with one singular value.

    Shape:
        W: as given → the same.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().double().reshape(len(weight) if weight.ndim > 1 else 1, -1)
        left, values, right = decompose(matrix)  # (O, R), (R,), (R, I)
        self.delta = nn.Parameter(torch.zeros_like(values, dtype=weight.dtype))
        for name, tensor in (("left", left), ("values", values), ("right", right)):
            self.register_buffer(name, tensor.to(weight.dtype).contiguous(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with its singular values shifted."""
        change = (self.values + self.delta).relu() - self.values  # (R,)
        return weight + ((self.left * change) @ self.right).view_as(weight)


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (O, R), σ (R,) in descending order and Vᵀ (R, I) of a float64 matrix (O, I), R = min(O, I).

    By the eigenvectors of the smaller Gram matrix: many times quicker than LAPACK's SVD on wide kernels, and in float64
    exact beyond what a float32 weight holds. Where σ is zero its row of Vᵀ is zero too, and a shift has no effect.
    """
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = decompose(matrix.mT)
        return right.mT, values, left.mT
    _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    left = vectors.flip(-1)
    scaled = left.mT @ matrix  # rows σ · vᵀ
    values = torch.linalg.vector_norm(scaled, dim=1)
    return left, values, scaled / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None]


def inject(model: nn.Module, family: str, config: SVDiffConfig) -> Injected:
    """Put a shift on the weight of every Linear, Conv2d, GroupNorm and LayerNorm; biases stay frozen."""
    places = sites.weighted_layers(model)
    for _, layer in places:
        reparametrise(layer, NAME, SpectralShift(layer.weight))
    return Injected(names=trained_names(model), matched=[name for name, _ in places])


def merge(model: nn.Module) -> None:
    """Write W' in place of every W."""
    for _, layer in adapters(model, NAME):
        shift = detach(layer, NAME)
        with torch.no_grad():
            layer.weight.copy_(shift(layer.weight))
