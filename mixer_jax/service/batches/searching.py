"""Answers queries in small batches: embeds them together, then searches.

    request -> Admission -> decoding in a thread -> Batcher -> answer

A batch starts when the previous one has ended, with the queries that have
arrived by then. Queries with the same options are searched together.
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

WAITING = 16  # queries that may wait while a batch runs

Observe = Callable[[str, float], None]  # stage name, seconds


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
    """Answers jobs in batches, in its own thread.

    Attributes:
      admission: counts the queries in flight.
    """

    def __init__(self, observe: Observe = lambda stage, seconds: None):
        """Starts the thread; `observe` gets the seconds of each stage."""
        self._observe = observe
        limit = SIZE + WAITING
        self._batcher: batching.Batcher[tuple[Job, float], Answer] = (
            batching.Batcher(self._answer, SIZE, waiting=limit)
        )
        self.admission = Admission(limit, lambda: self._batcher.seconds)

    def submit(self, job: Job) -> "Future[Answer]":
        """Queues a job; its future gets hits, an embedding, or an error."""
        begin = time.perf_counter()
        return self._batcher.submit((job, begin))

    def close(self) -> None:
        """Finishes the submitted jobs and ends the thread."""
        self._batcher.close()

    def _answer(self, batch: Sequence[tuple[Job, float]]) -> list[Answer]:
        """Returns the answer to each job, or its error."""
        begin = time.perf_counter()
        for _, since in batch:
            self._observe("queue", begin - since)
        jobs = [job for job, _ in batch]
        vectors = self._embed(jobs)
        encoded = time.perf_counter()
        self._observe("encode", encoded - begin)
        answers: list[Answer] = list(vectors)
        good = [i for i, v in enumerate(vectors) if isinstance(v, np.ndarray)]
        for rows in _groups(jobs, good):
            self._search(jobs, vectors, rows, answers)
        ended = time.perf_counter()
        self._observe("search", ended - encoded)
        self._observe("batch", len(jobs))
        return answers

    def _embed(self, jobs: Sequence[Job]) -> list[np.ndarray | Exception]:
        """Returns the vectors of the jobs' queries, f32 `[D]`, or errors."""
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
        return vectors

    def _search(
        self,
        jobs: Sequence[Job],
        vectors: Sequence[np.ndarray],
        rows: Sequence[int],
        answers: list[Answer],
    ) -> None:
        """Searches for jobs with the same index and options."""
        first, options = jobs[rows[0]], jobs[rows[0]].options
        if options is None:
            return
        queries = np.stack([vectors[row] for row in rows])
        try:
            found = first.generation.index.find(queries, **options._asdict())
        except Exception as error:  # Each request reports the error.
            found = [error] * len(rows)
        for row, one in zip(rows, found, strict=True):
            answers[row] = one


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


def _groups(jobs: Sequence[Job], rows: Sequence[int]) -> list[list[int]]:
    """Returns the given rows of jobs, grouped by index and options."""
    groups: dict[Any, list[int]] = {}
    for row in rows:
        job = jobs[row]
        key = id(job.generation), job.options and job.options.key
        groups.setdefault(key, []).append(row)
    return list(groups.values())
