"""Work that threads do ahead of its consumer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medpeft_cli.runs.environment import cores

T = TypeVar("T")


def ahead(work: Callable[[int], T], number: int, waiting: int) -> Iterator[T]:
    """Yield work(0) … work(number − 1) in order, done by threads that are at most `waiting` results ahead."""
    pool = ThreadPoolExecutor(cores(), initializer=_leave_cores)
    try:
        futures = [pool.submit(work, index) for index in range(min(waiting, number))]
        for index in range(number):
            result = futures[index % waiting].result()
            if index + waiting < number:
                futures[index % waiting] = pool.submit(work, index + waiting)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_cores() -> None:
    """Let torch compute on this thread alone: each would get a team of its own, and teams that wait spin on all cores."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # a thread's first use sets its number; ours comes after
    threadpool_limits(1, user_api="openmp")
