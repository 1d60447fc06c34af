"""Iterators that work in threads, in order and with bounds: what a pipeline is made of."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, Full, Queue
from typing import Generic, NoReturn, TypeVar

WAKE = 0.1  # seconds between two looks at whether to stop
A = TypeVar("A")
B = TypeVar("B")


def in_threads(work: Callable[[A], B], items: Iterable[A], workers: int) -> Generator[B, None, None]:
    """Map in `workers` threads, in order; as many more are begun as there are threads."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Budget:
    """Pixels that may be between two places at once. A larger request passes when little else is on its way."""

    def __init__(self, limit: int):
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until there is room for `count`."""
        with self._changed:
            self._changed.wait_for(lambda: self._used + count <= self._limit or self._used <= self._limit // 4)
            self._used += count

    def give(self, count: int) -> None:
        """Return what was taken."""
        with self._changed:
            self._used -= count
            self._changed.notify_all()

    def open(self) -> None:
        """Let everybody pass from now on."""
        self.give(1 << 62)


class _End(Exception):
    """Nothing more comes."""


def _same(item: A) -> A:
    return item


def _raise(error: BaseException) -> NoReturn:
    raise error


class Ahead(Generic[A]):
    """Iterate in a thread, at most `count` items ahead of the one who takes them. Leaving the block ends the thread.

    is_stopped: asked while nothing comes; true ends the iteration, as for a stream whose next frame never comes.
    """

    def __init__(self, items: Generator[A, None, None], count: int, is_stopped: Callable[[], bool] = lambda: False):
        self._items, self._is_stopped = items, is_stopped
        self._queue: Queue[Callable[[], A]] = Queue(count)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)

    def __enter__(self) -> Iterator[A]:
        self._thread.start()
        return iter(self)

    def __exit__(self, *error: object) -> None:
        self._left.set()

    def __iter__(self) -> Iterator[A]:
        quiet = 0.0
        while True:
            try:
                result = self._queue.get(timeout=WAKE)
            except Empty:
                quiet += WAKE
                if self._left.is_set() or (quiet > 5 * WAKE and self._is_stopped()):
                    return
                continue
            quiet = 0.0
            try:
                item = result()
            except _End:
                return
            yield item

    def _fill(self) -> None:
        try:
            for item in self._items:
                if not self._put(partial(_same, item)):
                    return
            self._put(partial(_raise, _End()))
        except BaseException as error:
            self._put(partial(_raise, error))
        finally:
            self._items.close()

    def _put(self, result: Callable[[], A]) -> bool:
        while not self._left.is_set():
            with suppress(Full):
                self._queue.put(result, timeout=WAKE)
                return True
        return False
