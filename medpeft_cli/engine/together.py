"""Several processes train one run, each a part of every step. Alone, nothing here does anything.

The shares of a step are dealt out, and a share's loss is already its part of the step's mean; so the gradients are added up, not
averaged, and the step is that of one process however uneven the parts. torch's and accelerate's data parallelism average equal
parts, which these need not be.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from medpeft_cli.errors import RunError
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.runs import ranks, stop

BUCKET = 2**24  # numbers that are added up at once

T = TypeVar("T")


# --- the parts of the work


def share_count(examples: int, micro_batch_size: int) -> int:
    """Return into how many shares a step is cut: none larger than a forward pass takes, and one for each process at least."""
    return max(math.ceil(examples / micro_batch_size), min(ranks.here.size, examples))


def mine(things: Sequence[T]) -> Sequence[T]:
    """Return those of a sequence that are dealt to this process."""
    return things[ranks.here.rank :: ranks.here.size]


def dealt(shares: Sequence[T], work: Iterable[Any]) -> Iterator[tuple[T, Any]]:
    """Yield every share, with the next of this process's work if it is `mine`, else with None."""
    own = iter(work)
    for number, share in enumerate(shares):
        yield share, next(own) if number % ranks.here.size == ranks.here.rank else None


def block(things: Sequence[T]) -> Sequence[T]:
    """Return this process's part of a sequence; the parts follow each other in the order of the processes."""
    rank, size = ranks.here.rank, ranks.here.size
    return things[len(things) * rank // size : len(things) * (rank + 1) // size]


# --- what they tell each other


def told(value: T) -> T:
    """Return what process 0 has for a value, to every process."""
    if ranks.here.size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def shared(value: T) -> list[T]:
    """Return what every process has for a value, in their order, to every process."""
    if ranks.here.size == 1:
        return [value]
    values: list[Any] = [None] * ranks.here.size
    distributed.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return once every process has come to this point."""
    if ranks.here.size > 1:
        distributed.all_reduce(torch.zeros(()))


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in their order, to every process; on the CPU."""
    if ranks.here.size == 1:
        return rows
    return torch.cat([part for part in shared(rows) if len(part)])


def start_alike(tensors: Sequence[Tensor], steps: int) -> None:
    """Give every process the tensors of process 0, in place.

    Args:
        tensors: all that training changes.
        steps: optimiser steps that were taken before, by this process's checkpoint.

    Raises:
        RunError: if this process reads another checkpoint than process 0.
    """
    if ranks.here.size == 1:
        return
    if (first := told(steps)) != steps:
        raise RunError(
            f"its checkpoint is of step {steps:,}, that of process 0 of step {first:,}",
            "the results folder must be one and the same for all processes",
        )
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), src=0)


def add_up(parameters: Sequence[nn.Parameter], others: Sequence[Tensor]) -> None:
    """Turn each gradient into the sum over all processes, and other tensors too, in place; the end of every step.

    A parameter that no process has a gradient for is left without one. A signal that one process got is one for all.
    """
    if ranks.here.size == 1:
        return
    found = torch.tensor([stop.received(), *(parameter.grad is not None for parameter in parameters)])
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    number, *there = found.tolist()
    if number:
        stop.receive(number)
    reached = [parameter for parameter, has in zip(parameters, there, strict=True) if has]
    for parameter in reached:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([*(parameter.grad for parameter in reached), *others]):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        distributed.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one type, as many as are added up at once."""
    bucket: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda tensor: str(tensor.dtype)):
        if bucket and (bucket[0].dtype != tensor.dtype or sum(each.numel() for each in bucket) > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


class MovingStatistics:
    """The BatchNorm statistics that move, over the shares of all processes, as one process would have them.

    With momentum m a share of mean b turns the mean r into (1 − m) r + m b. At the start of a step process 0 holds r and the others
    0; each multiplies its own by 1 − m where another has the share. After the last share they add up to what one process would hold.
    """

    def __init__(self, adapted: Adapted):
        moving = set(adapted.moving_names) if ranks.here.size > 1 else set()
        self._norms = [module for name, module in adapted.model.named_modules() if f"{name}.running_mean" in moving]
        self.tensors = [tensor for name, tensor in adapted.model.named_buffers() if name in moving]

    def start_step(self) -> None:
        """Before the first share of a step."""
        if ranks.follows():
            for tensor in self.tensors:
                tensor.zero_()

    def pass_over(self) -> None:
        """In the place of another process's share."""
        for norm in self._norms:
            norm.running_mean.mul_(1 - norm.momentum)
            norm.running_var.mul_(1 - norm.momentum)
