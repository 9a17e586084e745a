"""AdaLoRA's part in training: orthogonal factors, and a rank that shrinks where it matters least."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medpeft_cli.recipe.schema import Strict

if TYPE_CHECKING:
    import peft

MOMENTS = ("exp_avg_ipt", "exp_avg_unc")  # peft's running importance and its uncertainty, per parameter


class Schedule:
    """What AdaLoRA does at each optimiser step (Zhang et al. 2023, arXiv:2303.10512, eq. 4 and algorithm 1).

    The work is HF peft's `update_and_allocate`; here it gets its step counts and survives a restart.

    Args:
        wrapper: peft's wrapper around the adapted model.
        config: AdaLoRA's hyper-parameters.
    """

    def __init__(self, wrapper: "peft.PeftModel", config: Strict):
        self.wrapper = wrapper
        self.config = config
        self.pattern: dict[str, list[bool]] | None = None

    def start(self, total_steps: int) -> None:
        """Set the schedule of the rank for a training of so many optimiser steps."""
        config = self.wrapper.peft_config["default"]
        config.total_step = total_steps
        config.tinit = int(self.config.warmup * total_steps)
        config.tfinal = min(int(self.config.settle * total_steps), total_steps - config.tinit - 1)

    def penalty(self) -> Tensor:
        """Return weight · mean over factors of ‖PᵀP − I‖_F, a scalar to add to the loss."""
        norms = []
        for name, parameter in self.wrapper.named_parameters():
            if "lora_A.default" in name or "lora_B.default" in name:
                gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter  # (R, R)
                norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.config.orthogonality * torch.stack(norms).mean()

    def after_step(self, step: int) -> None:
        """Weigh the directions by their gradients and mask the least important; `step` counts from 0."""
        config = self.wrapper.peft_config["default"]
        config.rank_pattern = self.pattern
        self.wrapper.base_model.update_and_allocate(step + 1)
        # masked directions are zeros in the file; with a pattern in the configuration peft would cut the tensors
        self.pattern, config.rank_pattern = config.rank_pattern, None

    def state(self) -> dict[str, Tensor]:
        """Return the importance of every direction and which are kept, as tensors on the CPU."""
        allocator = self.wrapper.base_model.rankallocator
        moments = {
            f"{moment}/{name}": tensor.cpu().clone()
            for moment in MOMENTS
            for name, tensor in getattr(allocator, moment).items()
        }
        return moments | {f"kept/{name}": torch.tensor(kept) for name, kept in (self.pattern or {}).items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        allocator = self.wrapper.base_model.rankallocator
        device = next(self.wrapper.parameters()).device
        parts = {name: name.partition("/") for name in state}
        for moment in MOMENTS:
            values = {name: state[key].to(device) for key, (kind, _, name) in parts.items() if kind == moment}
            setattr(allocator, moment, values)
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
        kept = {name: state[key].tolist() for key, (kind, _, name) in parts.items() if kind == "kept"}
        self.pattern = kept or None
