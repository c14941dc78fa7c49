"""Answers queries in small batches: embeds them together, then searches.

    request -> Admission -> decoding in a thread -> embedding -> searching

Embedding and searching are the two stages of a `Batcher`: a batch starts when
the previous one is embedded, with the queries that have arrived by then, and is
embedded while that one is searched. Queries with the same options are searched
together.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.service.batches import batching
from mixer_jax.service.batches.encoder import SIZE, Encoder, Query
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.stores.interface import Hit

WAITING = 32  # queries held at a time, besides a batch

# Gets ("batch", number of queries), or the name of a stage and its seconds.
Observe = Callable[[str, float], None]


class Options(NamedTuple):
    """Options of a search; see `items.Index.find`."""

    k: int
    offset: int = 0
    where: Mapping[str, Any] | None = None
    min_score: float | None = None
    group_by: str | None = None
    without: str | None = None
    min_probability: float | None = None
    is_calibrated: bool = True

    @property
    def key(self) -> str:
        """Equal for equal options."""
        return json.dumps(self, sort_keys=True)


class Job(NamedTuple):
    """A query to answer.

    Attributes:
      generation: the index to search, which its request keeps open.
      query: what to embed, or a vector f32 `[D]`.
      options: what to return; None to return the embedding.
    """

    generation: Generation
    query: Query | np.ndarray
    options: Options | None


Answer = list[Hit] | np.ndarray | Exception
Embedded = tuple[Job, np.ndarray | Exception]


class Admission:
    """Limits the number of queries in flight."""

    def __init__(self, limit: int, seconds: Callable[[], float]):
        """Sets the maximum number of queries.

        Args:
          limit: the maximum number.
          seconds: returns the mean time per query.
        """
        self.limit, self.held, self._seconds = limit, 0, seconds
        self._lock = threading.Lock()

    def enter(self, count: int = 1) -> None:
        """Counts queries until `leave`.

        Raises:
          FullError: if there are too many.
        """
        with self._lock:
            if self.held + count > self.limit:
                raise self.error()
            self.held += count

    def error(self) -> batching.FullError:
        """Returns the error for a query that exceeds the limit."""
        return batching.FullError(self.held * self._seconds())

    def leave(self, count: int = 1) -> None:
        """Stops counting queries."""
        with self._lock:
            self.held -= count


class Searches:
    """Answers jobs in batches, in its own threads.

    Attributes:
      admission: counts the queries in flight.
    """

    def __init__(self, observe: Observe = lambda stage, seconds: None):
        """Starts the threads; see `Observe`."""
        self._observe = observe
        limit = SIZE + WAITING
        self._batcher: batching.Batcher[tuple[Job, float], Answer] = (
            batching.Batcher([self._embed, self._search], SIZE, waiting=limit)
        )
        self.admission = Admission(limit, lambda: self._batcher.seconds)

    def submit(self, job: Job) -> "Future[Answer]":
        """Queues a job; its future gets hits, an embedding, or an error."""
        begin = time.perf_counter()
        return self._batcher.submit((job, begin))

    def close(self) -> None:
        """Finishes the submitted jobs and ends the threads."""
        self._batcher.close()

    def _embed(self, batch: Sequence[tuple[Job, float]]) -> list[Embedded]:
        """Embeds the queries of jobs that were submitted at the given times."""
        begin = time.perf_counter()
        for _, since in batch:
            self._observe("queue", begin - since)
        self._observe("batch", len(batch))
        jobs = [job for job, _ in batch]
        vectors: list[Any] = [job.query for job in jobs]
        for generation in {job.generation for job in jobs}:
            rows = [
                row
                for row, job in enumerate(jobs)
                if job.generation is generation and isinstance(job.query, Query)
            ]
            if not rows:
                continue
            found = _embed_all(generation.encoder, [vectors[r] for r in rows])
            for row, vector in zip(rows, found, strict=True):
                vectors[row] = vector
        self._observe("encode", time.perf_counter() - begin)
        return list(zip(jobs, vectors, strict=True))

    def _search(self, batch: Sequence[Embedded]) -> list[Answer]:
        """Returns the answer to each embedded job, or its error."""
        begin = time.perf_counter()
        answers: list[Answer] = [vector for _, vector in batch]
        for rows in _groups(batch):
            job, _ = batch[rows[0]]
            assert job.options is not None
            index = job.generation.index
            queries = np.stack([answers[row] for row in rows])
            found: Sequence[Answer]
            try:
                found = index.find(queries, **job.options._asdict())
            except Exception as error:  # Each request reports the error.
                found = [error] * len(rows)
            for row, one in zip(rows, found, strict=True):
                answers[row] = one
        self._observe("search", time.perf_counter() - begin)
        return answers


def _embed_all(
    encoder: Encoder, queries: Sequence[Query]
) -> list[np.ndarray | Exception]:
    """Embeds queries together, or one by one if that raises an error.

    Then only the queries that cause the error fail.
    """
    try:
        return list(encoder.embed(queries))
    except Exception as error:  # Each request reports the error.
        if len(queries) == 1:
            return [error]
    return [one for query in queries for one in _embed_all(encoder, [query])]


def _groups(batch: Sequence[Embedded]) -> list[list[int]]:
    """Groups the rows of jobs to search for by index and options."""
    groups: dict[Any, list[int]] = {}
    for row, (job, vector) in enumerate(batch):
        if job.options is not None and isinstance(vector, np.ndarray):
            key = id(job.generation), job.options.key
            groups.setdefault(key, []).append(row)
    return list(groups.values())
