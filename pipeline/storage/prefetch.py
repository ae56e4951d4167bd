"""Calls that are made ahead of their use, as each waits for a store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
NUM_THREADS = 8


def prefetched(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map a function over items in order, by threads that are a few calls ahead.

    At most NUM_THREADS results are held.
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) == NUM_THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
