"""State shared by the handlers of all requests."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import anyio
from starlette.exceptions import HTTPException

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.batches import searching
from mixer_jax.service.batches.batching import FullError
from mixer_jax.service.batches.generations import Generation, Generations
from mixer_jax.service.explaining import Explanations
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.metrics import Metrics
from mixer_jax.service.http.recording import Recorder
from mixer_jax.service.http.uploads import Reader

Result = TypeVar("Result")

_DECODERS = 2 + (os.cpu_count() or 1)  # threads that decode pictures
_WRITERS = 16  # maximum number of writes, running or waiting


class Service:
    """The parts of the application.

    Attributes:
      generations: the index.
      metrics: the metrics of the service.
      reader: reads the bodies of requests.
      keys: who may read and write.
      recorder: records searches and clicks; None to record nothing.
      searches: answers queries in batches.
      explanations: explains items.
    """

    def __init__(
        self,
        generations: Generations,
        *,
        max_megabytes: float,
        keys: Keys,
        recorder: Recorder | None = None,
    ):
        """Starts the threads that search and explain; `close` ends them."""
        self.generations, self.keys = generations, keys
        self.metrics, self.recorder = Metrics(), recorder
        self.reader = Reader(max_megabytes)
        self.searches = searching.Searches(self.metrics.observe)
        self.explanations = Explanations()
        self._decoders = anyio.CapacityLimiter(_DECODERS)
        self._writer = anyio.CapacityLimiter(1)
        self._writing = searching.Admission(_WRITERS, lambda: 1.0)
        if recorder is not None:
            recorder.on_loss = self.metrics.lost_events.add
        self._add_gauges()

    def _add_gauges(self) -> None:
        admission, generations = self.searches.admission, self.generations
        for name, text, read in (
            ("queries_in_flight", "Queries in flight.", lambda: admission.held),
            ("queries_limit", "Maximum queries.", lambda: admission.limit),
            ("generation", "Opened generations.", lambda: generations.count),
            ("index_items", "Items in the index.", self._count),
        ):
            self.metrics.gauge(name, text, read)

    def _count(self) -> int:
        with self.generations.use() as generation:
            return generation.index.store.count()

    def close(self) -> None:
        """Finishes the pending searches, explanations and records."""
        self.searches.close()
        self.explanations.close()
        if self.recorder is not None:
            self.recorder.close()

    @contextlib.contextmanager
    def admitted(self, count: int = 1) -> Iterator[None]:
        """Counts queries as in flight during a block.

        Raises:
          HTTPException: 503 if there are too many.
        """
        try:
            self.searches.admission.enter(count)
        except FullError as error:
            self.metrics.refused.add(amount=count)
            raise busy(error) from error
        try:
            yield
        finally:
            self.searches.admission.leave(count)

    def require_room(self) -> None:
        """Rejects excess queries before their bodies are read.

        Raises:
          HTTPException: 503 if too many queries are in flight.
        """
        admission = self.searches.admission
        if admission.held >= admission.limit:
            self.metrics.refused.add()
            raise busy(admission.error())

    async def decode(self, work: Callable[[], Result]) -> Result:
        """Runs decoding work in one of a few threads."""
        with self.metrics.timed("decode"):
            return await anyio.to_thread.run_sync(work, limiter=self._decoders)

    async def read(self, work: Callable[[Generation], Result]) -> Result:
        """Runs `work` on the index in a thread."""
        with self.generations.use() as generation:
            return await anyio.to_thread.run_sync(work, generation)

    async def write(self, work: Callable[[Generation], Result]) -> Result:
        """Changes the index in a thread, one request at a time.

        Raises:
          HTTPException: 503 if too many requests are waiting.
        """
        try:
            self._writing.enter()
        except FullError as error:
            raise busy(error) from error
        try:
            return await anyio.to_thread.run_sync(
                self._write, work, limiter=self._writer
            )
        finally:
            self._writing.leave()

    def _write(self, work: Callable[[Generation], Result]) -> Result:
        with self.generations.use() as generation:
            try:
                return work(generation)
            except UserError:
                # The index may have been rebuilt in the meantime.
                if not generation.is_stale():
                    raise
        self.generations.refresh()
        with self.generations.use() as generation:
            return work(generation)


def busy(error: FullError) -> HTTPException:
    """Returns the error for a request that exceeds the capacity."""
    wait = max(1, math.ceil(error.seconds))
    return HTTPException(
        503,
        f"Too many requests are waiting; try again in {wait} s.",
        {"Retry-After": f"{wait}"},
    )
