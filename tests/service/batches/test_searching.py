"""Answers to batches of queries."""

import threading

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.batches.batching import FullError
from mixer_jax.service.batches.encoder import Query
from mixer_jax.service.batches.searching import (
    Admission,
    Job,
    Options,
    Searches,
)

RED = np.array([1, -1, -1], np.float32) / np.sqrt(3, dtype=np.float32)


@pytest.fixture
def searches():
    made = Searches()
    yield made
    made.close()


def test_admission_is_limited():
    admission = Admission(3, lambda: 0.5)
    admission.enter(2)
    with pytest.raises(FullError) as caught:
        admission.enter(2)
    assert caught.value.seconds == 1
    admission.enter()
    admission.leave(2)
    admission.enter(2)
    assert admission.held == 3


def test_each_query_of_a_batch_gets_its_own_answer(shared):
    with shared.use() as generation:
        jobs = [
            Job(generation, RED, Options(2)),
            Job(generation, Query(None, "a text"), Options(1)),
            Job(generation, -RED, Options(2)),
            Job(generation, RED, Options(2, where={"none": 1})),
            Job(generation, Query(None, "a text"), None),
        ]
        store, sizes = generation.index.store, []
        search = store.search

        def count(queries, **options):
            sizes.append(len(queries))
            return search(queries, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "search", count)
            entered, opened = threading.Event(), threading.Event()
            encode = generation.encoder.embed

            def embed(queries):
                entered.set()
                opened.wait()
                return encode(queries)

            patch.setattr(generation.encoder, "embed", embed)
            searches = Searches()
            first = searches.submit(jobs[1])
            entered.wait()
            futures = [searches.submit(job) for job in jobs]
            opened.set()
            answers = [future.result() for future in [first, *futures]][1:]
            searches.close()
    categories = [[hit.category for hit in one] for one in answers[:3]]
    assert categories[0] == ["red", "red"]
    assert categories[1] == ["blue"]
    assert len(categories[2]) == 2
    assert "red" not in categories[2]
    assert isinstance(answers[3], UserError)
    np.testing.assert_allclose(answers[4], [0, 0, 1], atol=1e-6)
    # The first job runs alone; later jobs with equal options share a batch.
    assert sorted(sizes) == [1, 1, 1, 2]


def test_only_bad_queries_of_a_batch_fail(shared, searches):
    with shared.use() as generation:
        jobs = [
            Job(generation, Query(None, "a text"), Options(1)),
            Job(generation, Query(None, "\ud800"), Options(1)),
            Job(generation, Query(None, "\ud800"), None),
            Job(generation, RED, Options(1)),
        ]
        answers = searches._search(
            searches._embed([(job, 0.0) for job in jobs])
        )
    for good, category in ((0, "blue"), (3, "red")):
        assert [hit.category for hit in answers[good]] == [category]
    for bad in (1, 2):
        assert isinstance(answers[bad], Exception)


def test_a_failed_query_gets_its_error(shared, searches):
    with shared.use() as generation:
        future = searches.submit(Job(generation, Query("no pixels"), None))
        assert "not a valid JAX array" in str(future.result())
