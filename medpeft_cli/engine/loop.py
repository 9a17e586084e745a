"""The one training loop. It is read, not configured: what differs between tasks comes in as a `Task`."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from medpeft_cli.console import Advance
from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.engine.optim import build_optimiser, learning_rate
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.methods.adapt import Adapted, hold_norms, refuse_unreached, unreached
from medpeft_cli.methods.state import get_delta, set_delta
from medpeft_cli.recipe.schema import Train

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOSS_CHECK_STEPS = 50  # steps between two looks at the losses, which wait for the device


class Micro(NamedTuple):
    """One forward pass's share of an optimiser step."""

    step: int  # optimiser step within the epoch
    part: int  # number of the share within the step
    last: bool  # the step is taken after this share
    count: int  # examples in it
    batch: Any


class Task(Protocol):
    """What the loop asks of a task."""

    steps_per_epoch: int

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        """Yield the shares of an epoch from one step on; the same ones however often it is asked."""

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        """Return the share's part of the step's mean loss; the parts of a step add up to it."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Score the validation split; the keys include the metric that selects."""


def fit(
    adapted: Adapted, task: Task, spec: Train, seed: int, device: torch.device, checkpoint: Checkpoint, advance: Advance
) -> tuple[State, dict[str, Tensor], dict[str, Any]]:
    """Train until the last epoch or until patience runs out, going on from the checkpoint if there is one.

    A run that was killed at any moment and started again takes the same steps as one that never stopped: the order and
    augmentation are functions of (seed, epoch, index), dropout's of (seed, epoch, step), and the rate of the step.

    Args:
        adapted: model with its trained tensors, on `device`.
        task: batches, loss and validation.
        spec: the recipe's optimisation.
        seed: the run's seed.
        checkpoint: where the state is kept.
        advance: called after each optimiser step with the number of steps and a note.

    Returns:
        Final state, the best epoch's delta (CPU tensors), and {peak_bytes, measure}.

    Raises:
        RecipeError: if a trained tensor is not reached by the forward pass.
        RunError: for a non-finite loss or too little memory.
    """
    model = adapted.model
    optimiser = build_optimiser(adapted.trainable(), spec, _undecayed(model))
    scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "float16")
    parameters = [parameter for _, parameter in adapted.trainable()]
    if spec.gradient_checkpointing:
        _checkpoint_activations(adapted)

    adapted.schedule.start(spec.epochs * task.steps_per_epoch)

    state, best = State(), {}
    if (saved := checkpoint.load()) is not None:
        state, content = saved
        set_delta(adapted, content["tensors"])
        optimiser.load_state_dict(content["optimiser"])
        scaler.load_state_dict(content["scaler"])
        adapted.schedule.set_state(content["schedule"])
        best = checkpoint.load_best(state) if state.best_epoch is not None else {}
        advance(state.epoch * task.steps_per_epoch + state.step, resumed=True)

    written_best = state.best_epoch
    pending: list[Tensor] = []  # losses still on the device
    reached = False
    peak = PeakMemory(device)
    started = saved_at = time.monotonic()

    def save() -> None:
        nonlocal written_best, started, saved_at
        _collect(pending, state, spec, checkpoint)
        state.seconds += time.monotonic() - started
        started = time.monotonic()
        delta = get_delta(adapted)
        _refuse_non_finite(delta, state, spec)
        if written_best != state.best_epoch:
            checkpoint.save_best(state.best_epoch, best)
            written_best = state.best_epoch
        checkpoint.save(
            state,
            tensors=delta,
            optimiser=optimiser.state_dict(),
            scaler=scaler.state_dict(),
            schedule=adapted.schedule.state(),
        )
        saved_at = time.monotonic()

    while state.epoch < spec.epochs and not _out_of_patience(state, spec):
        _train_mode(adapted)
        loss_of_step = torch.zeros((), device=device)
        for micro in task.micro_batches(state.epoch, state.step):
            # --- forward and backward: each share has its own dropout, whatever ran before
            torch.manual_seed(seed_of(seed, f"dropout/{state.epoch}/{micro.step}/{micro.part}"))
            with autocast(device, spec.precision):
                loss = task.loss(model, micro)
                if micro.last and (penalty := adapted.schedule.penalty()) is not None:
                    loss = loss + penalty
            scaler.scale(loss).backward()
            loss_of_step += loss.detach()
            state.images += micro.count
            if not reached:
                if names := unreached(adapted):
                    refuse_unreached(adapted, names)
                reached = True
            if not micro.last:
                continue
            # --- one optimiser step
            done = state.epoch * task.steps_per_epoch + micro.step
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(done, task.steps_per_epoch, spec)
            scale = scaler.get_scale()
            if scaler.is_enabled():
                scaler.unscale_(optimiser)
            if spec.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, spec.clip_norm)
            scaler.step(optimiser)
            scaler.update()
            if scaler.get_scale() >= scale:  # otherwise a float16 gradient overflowed and the step was left out
                adapted.schedule.after_step(done)
            optimiser.zero_grad(set_to_none=True)
            pending.append(loss_of_step)
            loss_of_step = torch.zeros((), device=device)
            state.step = micro.step + 1
            advance(1)
            if time.monotonic() - saved_at >= spec.checkpoint_seconds:
                save()
            elif len(pending) >= LOSS_CHECK_STEPS:
                _collect(pending, state, spec, checkpoint)
        _collect(pending, state, spec, checkpoint)
        state.seconds += time.monotonic() - started
        state.peak_bytes = max(state.peak_bytes, peak.read()["peak_bytes"])

        # --- validation picks the epoch; its time and memory are not the method's
        model.eval()
        scores = task.validate(model)
        if _is_better(scores[spec.select], state.best_value, spec):
            state.best_epoch, state.best_value = state.epoch, scores[spec.select]
            best = get_delta(adapted)
        state.history.append({
            "epoch": state.epoch,
            "train_loss": math.fsum(state.losses) / max(len(state.losses), 1),
            "lr": optimiser.param_groups[0]["lr"],
            "val": scores,
        })  # fmt: skip
        state.epoch, state.step, state.losses = state.epoch + 1, 0, []
        advance(0, note=f"{spec.select} {scores[spec.select]:.3f}")
        peak = PeakMemory(device)
        started = time.monotonic()
    if reached:  # something was trained since the start
        save()
    return state, best, {"peak_bytes": state.peak_bytes, "measure": peak.read()["measure"]}


def autocast(device: torch.device, precision: str):  # noqa: ANN201
    """Return the context in which a forward pass runs: autocast to half precision, or nothing for float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


def _undecayed(model: nn.Module) -> set[str]:
    """Return the names that timm exempts from weight decay: embeddings and tokens."""
    return set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()


def _train_mode(adapted: Adapted) -> None:
    adapted.model.train()
    hold_norms(adapted)


def _is_better(value: float, best: float | None, spec: Train) -> bool:
    return best is None or (value < best if spec.select == "loss" else value > best)


def _out_of_patience(state: State, spec: Train) -> bool:
    if spec.patience_epochs is None or state.best_epoch is None:
        return False
    return state.epoch - 1 - state.best_epoch >= spec.patience_epochs


def _collect(pending: list[Tensor], state: State, spec: Train, checkpoint: Checkpoint) -> None:
    """Move the losses to the state; stop at the first that is not finite, before it can reach a checkpoint."""
    if not pending:
        return
    first = len(state.losses)
    values = torch.stack(pending).float().tolist()
    pending.clear()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            kept = f"; the last finite checkpoint is in {checkpoint.folder}" if checkpoint.exists() else ""
            raise _diverged(f"loss became {value} at step {first + offset} of epoch {state.epoch}", spec, kept)
    state.losses.extend(values)


def _refuse_non_finite(delta: dict[str, Tensor], state: State, spec: Train) -> None:
    for name, tensor in delta.items():
        if not torch.isfinite(tensor).all():
            raise _diverged(f"{name} is no longer finite after step {state.step} of epoch {state.epoch}", spec)


def _diverged(what: str, spec: Train, kept: str = "") -> RunError:
    return RunError(
        f"{what} (precision {spec.precision}, lr {spec.lr:g})",
        f"lower train.lr, or set train.precision to bfloat16 or float32, or train.clip_norm to 1.0{kept}",
    )


def _checkpoint_activations(adapted: Adapted) -> None:
    if adapted.moving_names:
        raise RecipeError(
            f"train.gradient_checkpointing: recomputation would move the BatchNorm statistics of {adapted.method.name!r} twice a step",
            "set it to false and lower train.micro_batch_size, or hold the statistics where the method can",
        )
    try:
        adapted.model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise RecipeError(
            "train.gradient_checkpointing: this backbone does not support it",
            "set it to false and lower train.micro_batch_size",
        ) from error
