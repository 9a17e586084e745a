"""Several processes train one run, each a part of every step. Alone, nothing here does anything.

The shares of a step are dealt out, and a share's loss is already its part of the step's mean; so the gradients are added up, not
averaged, and the step is that of one process however uneven the parts. torch's and accelerate's data parallelism average equal
parts, which these need not be.
"""

import json
import logging
import math
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from medpeft_cli.console import console
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.runs import ranks, stop
from medpeft_cli.runs.environment import cores
from medpeft_cli.runs.ranks import Place
from medpeft_cli.runs.wire import Follower, Leader

JOIN_SECONDS = 600.0  # in which all processes have to come
WAIT = timedelta(days=2)  # of a collective: longer than whatever process 0 does alone; deaths are noticed by the wire
LEAVE_SECONDS = 20.0  # until a process that was dismissed is killed
BUCKET = 2**24  # numbers that are added up at once

T = TypeVar("T")
_leader: Leader | None = None


@contextmanager
def joined(
    place: Place, recipe: Recipe, run: str, start: Callable[[int], Sequence[BaseProcess]] | None = None
) -> Iterator[None]:
    """Be one of the processes of a run: join the others, and leave with them.

    Process 0 passes; every other process ends here, with the exit code of process 0.

    Args:
        place: of this process.
        recipe: whose device they compute on.
        run: what the run is; all processes must have been given the same.
        start: starts the other processes, which then come to the port that it is given; None = they come by themselves.

    Raises:
        RunError: if a device is missing, a process does not come, or they were given different runs.
    """
    global _leader
    ranks.here = place
    if place.rank:
        _be_silent()
    follower, started, patience = None, (), 0.0
    try:
        device = _own_device(recipe.device, place, place.size if start else 1)
        store = _store(place)
        if start:
            started = start(store.port)
        store = distributed.PrefixStore("medpeft", store)
        _meet(store, place, {"run": run, "device": device}, started)
        if place.rank == 0:
            _leader = Leader()
            store.set("wire", f"{_leader.port} {_leader.token}")
            _leader.gather(place.size - 1)
            patience = LEAVE_SECONDS  # they can be told to leave
            _refuse_misfits([json.loads(store.get(f"place/{rank}")) for rank in range(place.size)])
        else:
            port, token = store.get("wire").decode().split()
            follower = Follower(place.address, int(port), token, place.rank)
        backend = "gloo" if recipe.device == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=WAIT)
        present = torch.ones(())
        distributed.all_reduce(present)
        if present != place.size:  # launchers have made worlds of one before
            raise RunError(f"{int(present)} of {place.size} processes are together")
        yield
        if follower:
            follower.leave()
        if _leader:
            _leader.end()
        distributed.destroy_process_group()
        _dismiss(0)
    except BaseException as error:
        if follower:
            follower.leave(error)
        if _leader:
            _leader.claim(error)
        _dismiss(_exit_code(error))
        raise
    finally:
        ranks.here, _leader = Place(), None
        for process in started:
            process.join(patience)
            process.kill()


def _dismiss(code: int) -> None:
    if _leader:
        _leader.dismiss(code)


@contextmanager
def answerable(last_words) -> Iterator[None]:  # noqa: ANN001
    """Go on with an error from within only if it is this process's own, not the echo of another's end.

    Args:
        last_words: called with the error if another process ends this one.
    """
    if _leader is None:
        yield
        return
    _leader.last_words = last_words
    try:
        yield
    except BaseException as error:
        _leader.claim(error)
        raise


def _own_device(name: str, place: Place, wanted: int) -> str:
    """Make this process's GPU its default, and return what tells it from all others; "" on the CPU.

    Raises:
        RecipeError: if the recipe's device is for one process.
        RunError: if there are fewer GPUs than wanted, or none for this process.
    """
    if name == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
        return ""
    if name not in ("auto", "cuda"):
        raise RecipeError(
            f"device: {name!r} is for one process, got {place.size}", "device: auto gives each process a GPU; cpu, none"
        )
    count = torch.cuda.device_count()
    if count < wanted or (count > 1 and place.local_rank >= count):
        raise RunError(
            f"{place.size} processes want a GPU each, {platform.node()} has {count}",
            "--gpus as many as there are; processes on the CPU: --set device=cpu",
        )
    torch.cuda.set_device(place.local_rank if count > 1 else 0)
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _store(place: Place) -> distributed.TCPStore:
    """Return what the processes find each other by; process 0 serves it, unless torchrun does."""
    serves = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=JOIN_SECONDS)
    try:
        return distributed.TCPStore(place.address, place.port, place.size, serves, limit, wait_for_workers=False)
    except RuntimeError as error:
        raise _apart(place, str(error)) from error


def _meet(store: distributed.Store, place: Place, card: dict[str, str], started: Sequence[BaseProcess]) -> None:
    """Leave a card, and return once every process has left one."""
    end = time.monotonic() + JOIN_SECONDS
    try:
        store.set(f"place/{place.rank}", json.dumps(card))
        while not store.check([f"place/{rank}" for rank in range(place.size)]):
            for rank, process in enumerate(started, start=1):
                if process.exitcode is not None:
                    raise RunError(f"process {rank} ended at its start, with exit code {process.exitcode}")
            if time.monotonic() > end:
                raise _apart(place, "not all have come")
            time.sleep(0.02)
    except RuntimeError as error:
        raise _apart(place, str(error)) from error
    store.set_timeout(WAIT)


def _apart(place: Place, why: str) -> RunError:
    return RunError(
        f"process {place.rank} of {place.size} does not meet the others at {place.address}, port {place.port}: "
        f"{(why.splitlines() or [''])[0]}",
        "MASTER_ADDR is to name the machine of process 0, and MASTER_PORT a port that is free there",
    )


def _refuse_misfits(cards: list[dict[str, Any]]) -> None:
    if len({card["run"] for card in cards}) > 1:
        raise RunError(
            f"the {len(cards)} processes that were started together were given different runs",
            "one command for all of them; for a run each, start each with --gpus 1",
        )
    devices = [card["device"] for card in cards if card["device"]]
    if len(set(devices)) < len(devices):
        raise RunError(
            f"{len(devices)} processes have {len(set(devices))} GPUs between them", "as many processes as GPUs"
        )


def _be_silent() -> None:
    """Leave the words and Ctrl-C to process 0."""
    console.mute()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


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


def wait_for_all() -> None:
    """Return once every process has come to this point."""
    if ranks.here.size > 1:
        distributed.all_reduce(torch.zeros(()))


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in their order, to every process; on the CPU."""
    if ranks.here.size == 1:
        return rows
    parts: list[Any] = [None] * ranks.here.size
    distributed.all_gather_object(parts, rows)
    return torch.cat([part for part in parts if len(part)])


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
