"""Work that runs ahead of its consumer in bounded queues, with results in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.1  # how soon a thread that waits on a full queue notices that its consumer has stopped


def ahead(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Run an iterator in its own thread, at most `depth` results ahead.

    Args:
        iterable: The iterator; a generator is closed in its thread when this one is closed.
        depth: Largest number of waiting results.
    """
    queue: Queue[tuple[str, Any]] = Queue(depth)
    is_unwanted = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not is_unwanted.is_set():
            try:
                queue.put((kind, value), timeout=_POLL_SECONDS)
            except Full:
                continue
            return True
        return False

    def produce() -> None:
        iterator = iter(iterable)
        try:
            for value in iterator:
                if not put("value", value):
                    break
            else:
                put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        is_unwanted.set()
        try:
            while True:
                queue.get_nowait()
        except Empty:
            thread.join()


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[T], R], values: Iterable[T], depth: int
) -> Generator[tuple[T, R], None, None]:
    """Call a function in a thread pool; yields each value with its result, in the order of the values.

    Args:
        pool: The thread pool.
        work: The function.
        values: Its arguments; a generator is closed when this one is closed.
        depth: Largest number of calls in progress.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    iterator = iter(values)
    try:
        for value in iterator:
            waiting.append((value, pool.submit(work, value)))
            if len(waiting) >= depth:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
        if isinstance(iterator, Generator):
            iterator.close()
