"""What a method does at each optimiser step."""

from torch import Tensor


class Schedule:
    """Nothing, as for all methods but AdaLoRA (`adalora.RankSchedule`)."""

    def start(self, total_steps: int) -> None:
        """Take note of how many optimiser steps there will be."""

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss once per optimiser step, a float32 scalar; None = nothing."""
        return None

    def after_step(self, step: int) -> None:
        """Act on optimiser step number `step` (from 0), while its gradients, unscaled, are still there."""

    def state(self) -> dict[str, Tensor]:
        """Return what is remembered between steps, for a checkpoint."""
        return {}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
