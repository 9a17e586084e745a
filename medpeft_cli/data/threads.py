"""Work that threads do ahead of its consumer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medpeft_cli.runs.environment import cores

T = TypeVar("T")


def ahead(work: Callable[[int], T], number: int, waiting: int) -> Iterator[T]:
    """Yield work(0) … work(number − 1) in order, done by threads that are at most `waiting` results ahead."""
    pool = ThreadPoolExecutor(cores())
    try:
        futures = [pool.submit(work, index) for index in range(min(waiting, number))]
        for index in range(number):
            result = futures[index % waiting].result()
            if index + waiting < number:
                futures[index % waiting] = pool.submit(work, index + waiting)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
