"""Work on a stream in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, window: int, name: str
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order; results are made while earlier ones are taken.

    Args:
        items: are taken one by one.
        work: is called in threads.
        workers: threads.
        window: most items in work or waiting to be taken; more would pile up in memory.
        name: how the names of the threads begin.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= window:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
