"""Be one of the processes that train one run: find the others, leave with them."""

import json
import logging
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess

import torch
from torch import distributed

from medpeft_cli.console import console
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.runs import ranks
from medpeft_cli.runs.environment import cores
from medpeft_cli.runs.ranks import Place
from medpeft_cli.runs.wire import Follower, Leader

JOIN_SECONDS = 600.0  # in which all processes have to come
WAIT = timedelta(days=2)  # of a collective: longer than whatever process 0 does alone; deaths are noticed by the wire
LEAVE_SECONDS = 20.0  # until a process that was dismissed is killed

_leader: Leader | None = None


@contextmanager
def joined(
    place: Place, recipe: Recipe, run: str, start: Callable[[int], Sequence[BaseProcess]] | None = None
) -> Iterator[None]:
    """Be one of the processes of a run: join the others, and leave with them.

    Process 0 passes; every other process ends here.

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
        _dismiss()
    except BaseException as error:
        if follower:
            follower.leave(error)
        if _leader:
            _leader.claim(error)
        _dismiss()
        raise
    finally:
        ranks.here, _leader = Place(), None
        for process in started:
            process.join(patience)
            process.kill()


def _dismiss() -> None:
    if _leader:
        _leader.dismiss()


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


def _refuse_misfits(cards: list[dict[str, str]]) -> None:
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
