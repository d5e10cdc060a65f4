"""Work done ahead in threads: for work that leaves the interpreter, as decoding and resizing images does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_in_threads(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Generator[R]:
    """`function` of each item, in the order of items, at most `ahead` of them made before they are asked for.

    An error is raised where its item's result would have come. When it is closed or fails, what has begun is finished,
    the rest is dropped, and no thread is left.
    """
    waiting = iter(items)
    executor = ThreadPoolExecutor(threads, thread_name_prefix="raypose-loader")
    made: deque[Future[R]] = deque()
    try:
        made.extend(executor.submit(function, item) for item in islice(waiting, ahead))
        while made:
            result = made.popleft().result()
            made.extend(executor.submit(function, item) for item in islice(waiting, 1))
            yield result
            del result  # the consumer alone decides how long a batch lives
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
