"""Which of the processes that train one run together this one is, as `--gpus`, torchrun or srun have it.

Process 0 alone writes and speaks; the others compute.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from medpeft_cli.errors import RunError
from medpeft_cli.runs import slurm

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables by which torchrun and srun make one of several processes."""
FIRST_PORT, PORTS = 12_000, 20_000  # of which a job step takes one by its number


@dataclass(frozen=True)
class Place:
    """The place of a process.

    Attributes:
        rank: its number, 0 ≤ rank < size.
        size: processes that train the run together.
        local_rank: its number on its machine, which is that of its GPU.
        sharing: processes that share its processors.
        address: machine of process 0, as the others reach it.
        port: where process 0 waits for the others.
        led: it works alone for a while, but process 0 decides when it leaves.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    sharing: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    led: bool = False


here = Place()
"""Of this process; set by `engine.join.joined`."""


def follows() -> bool:
    """Tell whether this process leaves records, files and words to process 0."""
    return here.rank > 0


@contextmanager
def alone() -> Iterator[None]:
    """Work for a while as if there were no other processes."""
    global here
    before = here
    here = Place(led=before.rank > 0)
    try:
        yield
    finally:
        here = before


def launched(environ: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that torchrun (or accelerate, or mpirun's wrappers) or srun gave this process; None = it is alone.

    Of SLURM only the variables of a step count: a batch script is one process, however many tasks its job has.

    Raises:
        RunError: if a variable is missing or no number.
    """

    def number(name: str, default: int | None = None) -> int:
        text = environ.get(name, "" if default is None else str(default))
        if not text.isdecimal():
            raise RunError(f"{name}: got {text!r}, wanted a number, as torchrun and srun set it")
        return int(text)

    if "RANK" in environ and number("WORLD_SIZE", 1) > 1:
        return Place(
            number("RANK"),
            number("WORLD_SIZE"),
            number("LOCAL_RANK"),
            number("LOCAL_WORLD_SIZE", 1),
            environ.get("MASTER_ADDR", "127.0.0.1"),
            number("MASTER_PORT"),
        )
    if number("SLURM_STEP_NUM_TASKS", 1) > 1:
        hosts = environ.get("SLURM_STEP_NODELIST", "")
        alone = number("SLURM_STEP_NUM_NODES", 1) == 1
        return Place(
            number("SLURM_PROCID"),
            number("SLURM_STEP_NUM_TASKS"),
            number("SLURM_LOCALID"),
            1,  # each task has processors of its own
            environ.get("MASTER_ADDR") or ("127.0.0.1" if alone else slurm.first_host(hosts)),
            number("MASTER_PORT", FIRST_PORT + (31 * number("SLURM_JOB_ID") + number("SLURM_STEP_ID")) % PORTS),
        )
    return None
