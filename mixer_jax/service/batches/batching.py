"""Runs batches of items that arrive at about the same time through stages.

A batch starts as soon as the previous one has left the first stage, with all
items that have arrived by then. A single item therefore never waits for others,
and batches grow with the load.
"""

import collections
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Stage = Callable[[Sequence[Any]], Sequence[Any]]

_FORGET = 0.2  # weight of a new measurement in the mean time per item


class FullError(Exception):
    """Raised if too many items are waiting.

    Attributes:
      seconds: the estimated time until there is room.
    """

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


class Batcher(Generic[Item, Result]):
    """Runs batches of submitted items through stages, each in its own thread.

    Attributes:
      seconds: the mean time per item; 0 before the first batch.
    """

    def __init__(self, stages: Sequence[Stage], size: int, waiting: int):
        """Starts the threads.

        Args:
          stages: functions that return a value for each item of a batch, which
            is the item of the next stage, or its result.
          size: the maximum number of items per batch.
          waiting: the maximum number of items that wait for the first stage.
        """
        self._size, self._waiting = size, waiting
        self._queue: collections.deque[tuple[Item, Future]] = (
            collections.deque()
        )
        self._changed = threading.Condition()
        self._is_closed = False
        self._ended = 0.0  # time when the last batch ended
        self.seconds = 0.0
        # A stage that falls behind keeps the previous one from starting more.
        between = [queue.Queue(1) for _ in stages[1:]]
        sources = [self._next, *(each.get for each in between)]
        sinks = [*(each.put for each in between), self._finish]
        self._threads = [
            threading.Thread(target=_run, args=each, daemon=True)
            for each in zip(stages, sources, sinks, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """Queues an item; the future has its result, or the error of its batch.

        An item whose future is canceled before its batch starts is dropped.

        Raises:
          FullError: if too many items are waiting.
          RuntimeError: if the batcher is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The batcher is closed.")
            count = len(self._queue)
            if count >= self._waiting:
                raise FullError(count * self.seconds)
            self._queue.append((item, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finishes the submitted items and ends the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        for thread in self._threads:
            thread.join()

    def _next(self) -> "_Batch | None":
        """Waits for items and returns a batch; None if the batcher is closed.

        Items whose futures are canceled are dropped.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if not self._queue:
                    return None
                count = min(self._size, len(self._queue))
                some = [self._queue.popleft() for _ in range(count)]
                some = [
                    (item, future)
                    for item, future in some
                    if future.set_running_or_notify_cancel()
                ]
                if some:
                    return _Batch(*map(list, zip(*some, strict=True)))

    def _finish(self, batch: "_Batch | None") -> None:
        """Sets the results of a batch."""
        if batch is None:
            return
        for future, result in zip(batch.futures, batch.items, strict=True):
            future.set_result(result)
        # Stages overlap: count the time since the previous batch ended.
        now = time.monotonic()
        seconds = (now - max(batch.begin, self._ended)) / len(batch.futures)
        self._ended = now
        known = self.seconds or seconds
        self.seconds = known + _FORGET * (seconds - known)


class _Batch:
    """Items between two stages, and the futures of their results."""

    def __init__(self, items: Sequence[Any], futures: Sequence[Future]):
        self.items, self.futures = items, futures
        self.begin = time.monotonic()


def _run(
    stage: Stage,
    source: Callable[[], _Batch | None],
    sink: Callable[[_Batch | None], None],
) -> None:
    """Runs a stage on batches from `source`, until None, which is passed on."""
    while (batch := source()) is not None:
        try:
            results = stage(batch.items)
            if len(results) != len(batch.items):
                raise ValueError(
                    f"A stage returned {len(results)} values for "
                    f"{len(batch.items)} items."
                )
        except BaseException as error:  # Raised in the waiting threads.
            for future in batch.futures:
                future.set_exception(error)
            continue
        batch.items = results
        sink(batch)
    sink(None)
