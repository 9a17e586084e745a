"""How much memory a training will take, before it: the training's own loop, for two steps."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.engine.classify import ClassifyTask
from medpeft_cli.engine.frozen import AT_ONCE, Frozen
from medpeft_cli.engine.loop import Micro, Task, fit
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.models.sites import example_inputs
from medpeft_cli.recipe.schema import Optimisation

STEPS = 2  # AdamW makes its states in the first step, so the second has all
SCALED_STEPS = 8  # of float16: its loss scale begins too large, and a step that is left out makes no states
TRAINED_BYTES = 4 + 8  # of a trained value: its gradient, and AdamW's two averages
AVERAGE_BYTES = 4  # the running average of the value itself, where the recipe asks for one


class Forecast:
    """The peak of a training's memory, by a few steps of it.

    Args:
        adapted: model with its trained tensors, on `device`; the steps change it.
        task: of the training; the first shares of its epochs are taken, and it validates once.
        spec: the recipe's optimisation.
        device: where it is trained.
    """

    def __init__(self, adapted: Adapted, task: Task, spec: Optimisation, device: torch.device):
        self.adapted, self.task, self.spec, self.device = adapted, task, spec, device

    def measure(self) -> dict[str, Any]:
        """Take the steps, and return what the record would say in `memory`, and what the peak is made of.

        Returns:
            peak_bytes, measure, device: as in a record. parts: bytes by name; the last is what the others leave. On CUDA
            free_bytes and total_bytes: of the device, before.

        Raises:
            RecipeError, RunError: as `loop.fit` raises them.
        """
        model = self.adapted.model
        found: dict[str, Any] = {"device": str(self.device)}
        if self.device.type == "cuda":
            found["free_bytes"], found["total_bytes"] = torch.cuda.mem_get_info(self.device)
        before = PeakMemory(self.device).read()["peak_bytes"]
        memory = fit(
            self.adapted, _Short(self.task, self.spec), self.spec, 0, self.device, _Unkept(), lambda *_, **__: None
        )[2]
        parameters = sum(
            tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers())
        )
        each = TRAINED_BYTES + (0 if self.task.plan.ema_decay is None else AVERAGE_BYTES)
        trained = each * sum(parameter.numel() for _, parameter in self.adapted.trainable())
        parts = {"parameters": parameters, "gradients_and_optimiser": trained}
        if self.device.type == "cpu":  # interpreter, libraries, and what building the model has left
            parts["process"] = max(before - parameters, 0)
        parts["activations_and_buffers"] = max(memory["peak_bytes"] - sum(parts.values()), 0)
        return found | memory | {"parts": parts}


def forecast(assembly: Assembly) -> Forecast:
    """Return the forecast of a recipe's training; of a pipeline it keeps the U-Net alone, as the training does."""
    recipe = assembly.recipe
    if recipe.task == "generate":
        from medpeft_cli.engine.noise import noise_task

        task: Task = noise_task(assembly)
    else:
        task = ClassifyTask(assembly, Path(), _NoFeatures)  # it writes nothing before the end
        task.val_indices = task.val_indices[: recipe.evaluate.batch_size]
    return Forecast(assembly.adapted, task, recipe.train, assembly.device)


class _Short:
    """A task that ends after a few steps of two shares at most, between which it validates if the whole task does."""

    def __init__(self, task: Task, spec: Optimisation):
        self.task, plan = task, task.plan
        wanted = SCALED_STEPS if spec.precision == "float16" else STEPS
        epochs = 2 if plan.total_steps > plan.steps_per_epoch else 1
        steps = min(wanted // epochs, plan.steps_per_epoch)
        self.plan = replace(
            plan, total_steps=epochs * steps, steps_per_epoch=steps, select="last", patience_epochs=None
        )

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        shares = self.task.micro_batches(epoch, first_step)
        for step in range(self.plan.steps_per_epoch):
            first = next(shares)
            yield first._replace(step=step, part=0)
            if not first.last:
                yield next(shares)._replace(step=step, part=1, last=True)

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        return self.task.loss(model, micro)

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        self.task.validate(model, step)
        return {"loss": 0.0}


class _NoFeatures(Frozen):
    """A table of a network's frozen part that is neither read nor written: it gives noise."""

    def fill(self, train: np.ndarray, val: np.ndarray) -> bool:
        if self.device.type == "cpu":  # what filling it takes stays with the process
            self._below(example_inputs(self.model, "", self.spec.size, AT_ONCE)[0][0])
        return True

    def hidden(self, indices: Sequence[int], versions: Sequence[int | None]) -> Tensor:
        return torch.randn(len(indices), *self.rows.shape)


class _Unkept(Checkpoint):
    """A checkpoint of which nothing is written."""

    def __init__(self) -> None:
        super().__init__(Path())

    def save(self, state: State, **content: Any) -> None:
        pass

    def save_best(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        pass

    def load(self) -> None:
        pass
