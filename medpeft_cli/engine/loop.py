"""The one training loop. It is read, not configured: what differs between tasks comes in as a `Task`."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from medpeft_cli.console import Advance
from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.engine.optim import build_optimiser, learning_rate
from medpeft_cli.engine.seed import draw_from, seed_of
from medpeft_cli.engine.spending import Joules, Spending
from medpeft_cli.engine.together import MovingStatistics, add_up, start_alike
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.methods.adapt import Adapted, hold_norms, refuse_unreached, unreached
from medpeft_cli.methods.state import get_delta, set_delta
from medpeft_cli.recipe.schema import Optimisation
from medpeft_cli.runs.ranks import follows
from medpeft_cli.runs.stop import Stopped, asked_to_leave, leave_if_asked, note_progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOSS_CHECK_STEPS = 50  # steps between two looks at the losses, which wait for the device


class DivergedError(RunError):
    """A loss or a trained tensor is no longer finite."""


class Micro(NamedTuple):
    """One forward pass's share of an optimiser step."""

    step: int  # optimiser step within the epoch
    part: int  # number of the share within the step
    last: bool  # the step is taken after this share
    count: int  # examples in it
    batch: Any  # None: another process computes it


@dataclass(frozen=True)
class Plan:
    """How long a task trains, and what its validation decides.

    Attributes:
        total_steps: optimiser steps of the whole training; the last epoch may be a short one.
        steps_per_epoch: steps between two validations, whatever that means to the task.
        warmup_steps: of the total, those in which the rate rises.
        select: validation metric that picks the epoch, the lower the better if it is the loss; "last" = the last epoch.
        patience_epochs: stop after so many epochs without gain; None = never.
        ema_decay: what is validated and kept is a running average of the trained tensors; None = the tensors themselves.
    """

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    select: str = "last"
    patience_epochs: int | None = None
    ema_decay: float | None = None


class Task(Protocol):
    """What the loop asks of a task."""

    plan: Plan

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        """Yield the shares of an epoch from one step on; the same ones however often it is asked."""

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        """Return the share's part of the step's mean loss; the parts of a step add up to it."""

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Score the validation split after so many steps; the keys include the metric that selects, or else the loss."""


def fit(
    adapted: Adapted,
    task: Task,
    spec: Optimisation,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    advance: Advance,
    follow: Callable[[dict[str, Any]], None] | None = None,
    joules: Joules = lambda: None,
) -> tuple[State, dict[str, Tensor], dict[str, Any]]:
    """Train until the last step or until patience runs out, going on from the checkpoint if there is one.

    A run that was killed at any moment and started again takes the same steps as one that never stopped: the order and
    augmentation are functions of (seed, epoch, index), dropout's of (seed, epoch, step), and the rate of the step. Several
    processes take the steps of one: each has its part of every step's shares, and of the validation.

    Args:
        adapted: model with its trained tensors, on `device`.
        task: plan, batches, loss and validation.
        spec: the recipe's optimisation.
        seed: the run's seed.
        checkpoint: where the state is kept.
        advance: called after each optimiser step with the number of steps and a note.
        follow: called with each new entry of the history.
        joules: reads a counter of the device's energy; None where there is none.

    Returns:
        Final state, the delta of the epoch that was picked (CPU tensors), and {peak_bytes, measure}.

    Raises:
        RecipeError: if a trained tensor is not reached by the forward pass.
        RunError: for a non-finite loss or too little memory.
    """
    model, plan = adapted.model, task.plan
    optimiser = build_optimiser(adapted.trainable(), spec, _undecayed(model))
    scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "float16")
    parameters = [parameter for _, parameter in adapted.trainable()]
    if spec.gradient_checkpointing:
        _checkpoint_activations(adapted)

    average = _average(parameters, plan)
    adapted.schedule.start(plan.total_steps)

    state, best = State(joules=0.0), {}
    if (saved := checkpoint.load()) is not None:
        state, content = saved
        set_delta(adapted, content["tensors"])
        optimiser.load_state_dict(content["optimiser"])
        scaler.load_state_dict(content["scaler"])
        adapted.schedule.set_state(content["schedule"])
        if average is not None:
            average.load_state_dict(content["average"])
            average.to(device)
        best = checkpoint.load_best(state) if state.best_epoch is not None else {}
        advance(min(_steps(state, plan), plan.total_steps), resumed=True)

    statistics = MovingStatistics(adapted)
    start_alike([*parameters, *statistics.tensors], _steps(state, plan))
    written_best = state.best_epoch
    pending: list[Tensor] = []  # losses still on the device
    reached = False
    peak = PeakMemory(device)
    spending = Spending(state, joules)
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal written_best, saved_at
        if follows():
            return
        _collect(pending, state, plan, spec, checkpoint)
        spending.add()
        delta = get_delta(adapted)
        _refuse_non_finite(delta, state, plan, spec)
        if written_best != state.best_epoch:
            checkpoint.save_best(state.best_epoch, best)
            written_best = state.best_epoch
        checkpoint.save(
            state,
            tensors=delta,
            optimiser=optimiser.state_dict(),
            scaler=scaler.state_dict(),
            schedule=adapted.schedule.state(),
            average=None if average is None else average.state_dict(),
        )
        saved_at = time.monotonic()

    while state.epoch * plan.steps_per_epoch < plan.total_steps and not _out_of_patience(state, plan):
        _train_mode(adapted)
        loss_of_step = torch.zeros((), device=device)
        for micro in task.micro_batches(state.epoch, state.step):
            state.images += micro.count
            if micro.part == 0:
                statistics.start_step()
            if micro.batch is None:
                statistics.pass_over()
            else:
                # --- forward and backward: each share has its own dropout, whatever ran before
                draw_from(seed_of(seed, f"dropout/{state.epoch}/{micro.step}/{micro.part}"), device)
                with autocast(device, spec.precision):
                    loss = task.loss(model, micro)
                    if micro.last and (penalty := adapted.schedule.penalty()) is not None:
                        loss = loss + penalty
                scaler.scale(loss).backward()
                loss_of_step += loss.detach()
                if not reached:
                    if names := unreached(adapted):
                        refuse_unreached(adapted, names)
                    reached = True
            if not micro.last:
                continue
            # --- one optimiser step, the same in every process
            add_up(parameters, [loss_of_step, *statistics.tensors])
            done = state.epoch * plan.steps_per_epoch + micro.step
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(done, plan.total_steps, plan.warmup_steps, spec)
            scale = scaler.get_scale()
            if scaler.is_enabled():
                scaler.unscale_(optimiser)
            if spec.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, spec.clip_norm)
            scaler.step(optimiser)
            scaler.update()
            if scaler.get_scale() >= scale:  # otherwise a float16 gradient overflowed and the step was left out
                adapted.schedule.after_step(done)
                if average is not None:
                    average.step(parameters)
            optimiser.zero_grad(set_to_none=True)
            pending.append(loss_of_step)
            loss_of_step = torch.zeros((), device=device)
            state.step = micro.step + 1
            note_progress()
            advance(1)
            if asked_to_leave() or time.monotonic() - saved_at >= spec.checkpoint_seconds:
                save()
                leave_if_asked()
            elif len(pending) >= LOSS_CHECK_STEPS:
                _collect(pending, state, plan, spec, checkpoint)
        _collect(pending, state, plan, spec, checkpoint)
        spending.add()
        state.peak_bytes = max(state.peak_bytes, peak.read()["peak_bytes"])

        # --- validation picks the epoch; its time and memory are not the method's
        model.eval()
        try:
            with _averaged(average, parameters):
                scores = task.validate(model, _steps(state, plan))
                value = scores[metric := "loss" if plan.select == "last" else plan.select]
                if _is_better(value, state.best_value, plan):
                    state.best_epoch, state.best_value, state.best_step = state.epoch, value, _steps(state, plan)
                    best = get_delta(adapted)
        except Stopped:  # the next start validates again
            spending.go_on()
            save()
            raise
        state.history.append({
            "epoch": state.epoch,
            "step": _steps(state, plan),
            "train_loss": math.fsum(state.losses) / max(len(state.losses), 1),
            "lr": optimiser.param_groups[0]["lr"],
            "val": scores,
        })  # fmt: skip
        if follow is not None:
            follow(state.history[-1])
        state.epoch, state.step, state.losses = state.epoch + 1, 0, []
        advance(0, note=f"{metric} {value:.3f}")
        peak = PeakMemory(device)
        spending.go_on()
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


def _average(parameters: list[nn.Parameter], plan: Plan):  # noqa: ANN202
    """Return diffusers' running average of the trained tensors, or None."""
    if plan.ema_decay is None:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters, decay=plan.ema_decay)


@contextmanager
def _averaged(average, parameters: list[nn.Parameter]) -> Iterator[None]:  # noqa: ANN001
    """Put the running average in the place of the trained tensors for a while."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)


def _steps(state: State, plan: Plan) -> int:
    """Return the optimiser steps that are done."""
    return state.epoch * plan.steps_per_epoch + state.step


def _is_better(value: float, best: float | None, plan: Plan) -> bool:
    return best is None or plan.select == "last" or (value < best if plan.select == "loss" else value > best)


def _out_of_patience(state: State, plan: Plan) -> bool:
    if plan.patience_epochs is None or state.best_epoch is None:
        return False
    return state.epoch - 1 - state.best_epoch >= plan.patience_epochs


def _collect(pending: list[Tensor], state: State, plan: Plan, spec: Optimisation, checkpoint: Checkpoint) -> None:
    """Move the losses to the state; stop at the first that is not finite, before it can reach a checkpoint."""
    if not pending:
        return
    first = state.epoch * plan.steps_per_epoch + len(state.losses)
    values = torch.stack(pending).float().tolist()
    pending.clear()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            kept = f"; the last finite checkpoint is in {checkpoint.folder}" if checkpoint.exists() else ""
            raise _diverged(f"loss became {value} at step {first + offset:,} of {plan.total_steps:,}", spec, kept)
    state.losses.extend(values)


def _refuse_non_finite(delta: dict[str, Tensor], state: State, plan: Plan, spec: Optimisation) -> None:
    for name, tensor in delta.items():
        if not torch.isfinite(tensor).all():
            raise _diverged(f"{name} is no longer finite after step {_steps(state, plan):,}", spec)


def _diverged(what: str, spec: Optimisation, kept: str = "") -> RunError:
    return DivergedError(
        f"{what} (precision {spec.precision}, lr {spec.lr:g})",
        f"lower train.lr, or set train.precision to bfloat16 or float32, or train.clip_norm to 1.0{kept}",
    )


def _checkpoint_activations(adapted: Adapted) -> None:
    if adapted.moving_names:
        raise RecipeError(
            f"train.gradient_checkpointing: recomputation would move the BatchNorm statistics of {adapted.method.name!r} twice a step",
            "set it to false and lower train.micro_batch_size, or hold the statistics where the method can",
        )
    model = adapted.model
    try:
        # timm's name for it, and diffusers'
        (
            model.set_grad_checkpointing
            if hasattr(model, "set_grad_checkpointing")
            else model.enable_gradient_checkpointing
        )()
    except (AttributeError, AssertionError) as error:
        raise RecipeError(
            "train.gradient_checkpointing: this backbone does not support it",
            "set it to false and lower train.micro_batch_size",
        ) from error
