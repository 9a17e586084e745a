"""How much memory a training will take, before it: the training's own loop, for two steps."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.engine.loop import Micro, fit
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.engine.run import RunTask
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.recipe.schema import Optimisation

STEPS = 2  # the states of AdamW are there from the first step on, so the second has all
SCALED_STEPS = 8  # of float16: its loss scale begins too large, and a step that is left out makes no states
TRAINED_BYTES = 4 + 8  # of a trained value: its gradient and the two averages of AdamW
AVERAGE_BYTES = 4  # and its running average, where the recipe asks for one


class Forecast:
    """The peak of a training on a device.

    Args:
        adapted: model with its trained tensors, on `device`; it is of no use afterwards.
        task: of the training; its first shares are taken, and what it says of the validation split.
        spec: the recipe's optimisation.
        device: where it is trained.
        mapped_bytes: of files, which the training will map and these steps do not.
    """

    def __init__(
        self, adapted: Adapted, task: RunTask, spec: Optimisation, device: torch.device, mapped_bytes: int = 0
    ):
        self.adapted, self.task, self.spec, self.device = adapted, task, spec, device
        self.mapped_bytes = mapped_bytes if device.type == "cpu" else 0  # a GPU's memory holds no files

    def measure(self) -> dict[str, Any]:
        """Train for two steps, and return what the record would say in `memory`, and what the peak is made of.

        Returns:
            peak_bytes, measure and device as in a record; parts: bytes of each; on CUDA free_bytes and total_bytes too.

        Raises:
            RecipeError, RunError: as `loop.fit` raises them.
        """
        model, plan = self.adapted.model, self.task.plan
        parameters = sum(tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers()))
        before = PeakMemory(self.device).read()["peak_bytes"]
        short = _Short(self.task, self.spec)
        _, _, memory = fit(self.adapted, short, self.spec, 0, self.device, _Unkept(), lambda *_, **__: None)
        bytes_each = TRAINED_BYTES + (AVERAGE_BYTES if plan.ema_decay is not None else 0)
        trained = bytes_each * sum(parameter.numel() for _, parameter in self.adapted.trainable())
        parts = {"parameters": parameters, "gradients_and_optimiser": trained}
        if self.device.type == "cpu":
            parts |= {"process": max(before - parameters, 0), "mapped_files": self.mapped_bytes}
        peak = memory["peak_bytes"] + self.mapped_bytes
        parts["activations_and_buffers"] = max(peak - sum(parts.values()), 0)
        found = memory | {"peak_bytes": peak, "device": str(self.device), "parts": parts}
        if self.device.type == "cuda":
            found["free_bytes"], found["total_bytes"] = torch.cuda.mem_get_info(self.device)
        return found


def forecast(assembly: Assembly) -> Forecast:
    """Return the forecast of a recipe's training; of a pipeline it keeps the U-Net alone, as the training does."""
    recipe, device = assembly.recipe, assembly.device
    if recipe.task == "generate":
        from medpeft_cli.engine.noise import noise_task

        return Forecast(assembly.adapted, noise_task(assembly), recipe.train, device)
    from medpeft_cli.engine.classify import ClassifyTask
    from medpeft_cli.engine.predict import evaluation_batches

    manifest = assembly.manifest
    task = ClassifyTask(assembly, Path())  # it writes nothing there
    seen = task.val_indices[: recipe.evaluate.batch_size]
    task.val = evaluation_batches(manifest, seen, task.spec, recipe)
    read = recipe.train.micro_batch_size * STEPS * 2 + len(seen)
    pictures = manifest.shapes[np.concatenate([task.train_indices, task.val_indices])].prod(axis=1)
    return Forecast(assembly.adapted, task, recipe.train, device, int(pictures[read:].sum()))


class _Unkept(Checkpoint):
    """A checkpoint that nothing is written to."""

    def __init__(self) -> None:
        super().__init__(Path())

    def save(self, state: State, **content: Any) -> None:
        pass

    def save_best(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        pass

    def load(self) -> None:
        pass


class _Short:
    """A task that ends after two steps of two shares, between which it validates once if the whole task does."""

    def __init__(self, task: RunTask, spec: Optimisation):
        self.task = task
        wanted = SCALED_STEPS if spec.precision == "float16" else STEPS
        epochs = 2 if task.plan.total_steps > task.plan.steps_per_epoch else 1
        steps = min(wanted // epochs, task.plan.steps_per_epoch)
        self.plan = replace(
            task.plan, total_steps=epochs * steps, steps_per_epoch=steps, select="last", patience_epochs=None
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
        self.task.outputs(model)
        return {"loss": 0.0}
