"""Runs a function on batches of items that arrive at about the same time.

A batch starts as soon as the previous one has ended, with all items that have
arrived by then. A single item therefore never waits for others, and batches
grow with the load.
"""

import collections
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

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
    """Runs a function on batches of submitted items, in its own thread.

    Attributes:
      seconds: the mean time per item; 0 before the first batch.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        size: int,
        waiting: int,
    ):
        """Starts the thread.

        Args:
          function: returns a result for each item of a batch.
          size: the maximum number of items per batch.
          waiting: the maximum number of waiting items.
        """
        self._function, self._size, self._waiting = function, size, waiting
        self._queue: collections.deque[tuple[Item, Future]] = (
            collections.deque()
        )
        self._changed = threading.Condition()
        self._is_closed = False
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

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
        """Finishes the submitted items and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            begin = time.monotonic()
            futures = [future for _, future in batch]
            try:
                results = self._function([item for item, _ in batch])
                for future, result in zip(futures, results, strict=True):
                    future.set_result(result)
            except BaseException as error:  # Raised in the waiting threads.
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            seconds = (time.monotonic() - begin) / len(batch)
            known = self.seconds or seconds
            self.seconds = known + _FORGET * (seconds - known)

    def _next(self) -> list[tuple[Item, Future]]:
        """Waits for items and returns a batch; [] if the batcher is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if not self._queue:
                    return []
                count = min(self._size, len(self._queue))
                batch = [self._queue.popleft() for _ in range(count)]
                batch = [
                    each
                    for each in batch
                    if each[1].set_running_or_notify_cancel()
                ]
                if batch:
                    return batch
