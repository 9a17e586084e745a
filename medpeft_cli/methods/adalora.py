"""AdaLoRA's part in training: orthogonal factors, and a rank that shrinks where it matters least."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medpeft_cli.methods.schedule import Schedule
from medpeft_cli.recipe.schema import Strict

if TYPE_CHECKING:
    import peft

MOMENTS = ("exp_avg_ipt", "exp_avg_unc")  # peft's running importance and its uncertainty, per parameter


class RankSchedule(Schedule):
    """What AdaLoRA does at each optimiser step (Zhang et al. 2023, arXiv:2303.10512, eq. 4 and algorithm 1).

    Importance, budget and mask are those of HF peft's `RankAllocator`. Its `update_and_allocate` is not used: it would
    take up gradients that are not finite, and a step left out at the wrong moment would leave the rank unsettled.

    Args:
        wrapper: peft's wrapper around the adapted model.
        config: AdaLoRA's hyper-parameters.
    """

    def __init__(self, wrapper: "peft.PeftModel", config: Strict):
        self.wrapper = wrapper
        self.config = config
        self.pattern: dict[str, list[bool]] = {}  # which directions are kept, per layer

    def start(self, total_steps: int) -> None:
        """Set the schedule of the rank for a training of so many optimiser steps."""
        config = self.wrapper.peft_config["default"]
        config.total_step = total_steps
        config.tinit = int(self.config.warmup * total_steps)
        config.tfinal = min(int(self.config.settle * total_steps), total_steps - config.tinit - 1)

    def penalty(self) -> Tensor:
        """Return weight · mean over factors of ‖PᵀP − I‖_F, a float32 scalar to add to the loss."""
        norms = []
        for name, parameter in self.wrapper.named_parameters():
            if "lora_A.default" in name or "lora_B.default" in name:
                with torch.autocast(parameter.device.type, enabled=False):
                    gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter  # (R, R)
                    norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.config.orthogonality * torch.stack(norms).mean()

    def after_step(self, step: int) -> None:
        """Weigh the directions by their gradients and mask the least important.

        A step with a gradient that is not finite (float16, when the loss scale was too large) weighs nothing.

        Args:
            step: number of the optimiser step, from 0.
        """
        base = self.wrapper.base_model
        allocator, config, number = base.rankallocator, base.peft_config["default"], step + 1
        if number < config.total_step - config.tfinal:
            if self._finite_gradients():
                allocator.update_ipt(base.model)
            budget, shrinks = allocator.budget_schedule(number)
            if shrinks and allocator.exp_avg_ipt:
                self.pattern = allocator.mask_to_budget(base.model, budget)
        elif allocator.exp_avg_ipt:  # the rank settles: the last mask stays, and importance is forgotten
            self.pattern = allocator.mask_to_budget(base.model, allocator.target_bgt)
            allocator.reset_ipt()
        elif self.pattern:
            allocator.mask_using_rank_pattern(base.model, self.pattern)

    def state(self) -> dict[str, Tensor]:
        """Return the importance of every direction and which are kept, as tensors on the CPU."""
        allocator = self.wrapper.base_model.rankallocator
        moments = {
            f"{moment}/{name}": tensor.cpu().clone()
            for moment in MOMENTS
            for name, tensor in getattr(allocator, moment).items()
        }
        return moments | {f"kept/{name}": torch.tensor(kept) for name, kept in self.pattern.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        allocator = self.wrapper.base_model.rankallocator
        device = next(self.wrapper.parameters()).device
        parts = {name: name.partition("/") for name in state}
        for moment in MOMENTS:
            values = {name: state[key].to(device) for key, (kind, _, name) in parts.items() if kind == moment}
            setattr(allocator, moment, values)
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
        self.pattern = {name: state[key].tolist() for key, (kind, _, name) in parts.items() if kind == "kept"}

    def _finite_gradients(self) -> bool:
        gradients = [parameter.grad for parameter in self.wrapper.parameters() if parameter.grad is not None]
        return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
