"""AdamW over the trained tensors, and the learning rate as a closed form of the step."""

import math
from collections.abc import Collection, Iterable

import torch
from torch import nn

from medpeft_cli.recipe.schema import Optimisation


def build_optimiser(
    trainable: Iterable[tuple[str, nn.Parameter]], spec: Optimisation, undecayed: Collection[str] = ()
) -> torch.optim.AdamW:
    """Return AdamW; biases, norms, scales, shifts and what the backbone exempts are not decayed.

    A tensor counts as a vector, whatever its shape, if at most one of its sides is longer than 1.

    Args:
        trainable: (name, parameter) pairs; all of them are optimised.
        spec: lr, betas and weight_decay of the recipe.
        undecayed: further names that are not decayed, such as timm's `no_weight_decay()`.
    """
    matrices, vectors = [], []
    for name, parameter in trainable:
        is_vector = sum(side > 1 for side in parameter.shape) <= 1
        (vectors if is_vector or name in undecayed else matrices).append(parameter)
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in matrices + vectors)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=spec.lr, betas=spec.betas, fused=fused)


def learning_rate(step: int, total_steps: int, warmup_steps: int, spec: Optimisation) -> float:
    """Return the rate of one optimiser step.

    Linear warm-up, then constant or half a cosine down to zero (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5 without
    restarts). A function of the step alone, so that a resumed run has no scheduler state.

    Args:
        step: optimiser steps done before this one, 0 ≤ step < total_steps.
        total_steps: of the whole training.
        warmup_steps: of them, those in which the rate rises; more than there are count as all.
        spec: lr and schedule of the recipe.
    """
    warmup = min(warmup_steps, total_steps)
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.lr
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))
