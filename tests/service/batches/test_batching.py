import threading

import pytest

from mixer_jax.service.batches.batching import Batcher, FullError


class Gate:
    """A function that records its batches and blocks until opened."""

    def __init__(self):
        self.batches, self.entered = [], threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, batch):
        self.batches.append(list(batch))
        self.entered.release()
        self.opened.wait()
        if "bad" in batch:
            raise ValueError("bad item")
        return [item * 2 for item in batch]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    made = Batcher([gate], size=4, waiting=6)
    yield made
    gate.opened.set()
    made.close()


def test_items_that_wait_share_a_batch(gate, batcher):
    futures = [batcher.submit(0)]
    gate.entered.acquire()
    futures += [batcher.submit(number) for number in range(1, 7)]
    gate.opened.set()
    assert [future.result() for future in futures] == list(range(0, 14, 2))
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_too_many_items_are_refused(gate, batcher):
    batcher.submit(0)
    gate.entered.acquire()
    waiting = [batcher.submit(number) for number in range(6)]
    with pytest.raises(FullError) as caught:
        batcher.submit(7)
    assert caught.value.seconds >= 0
    gate.opened.set()
    for future in waiting:
        future.result()
    assert batcher.submit(8).result() == 16


def test_an_error_ends_only_its_own_batch(gate, batcher):
    gate.opened.set()
    with pytest.raises(ValueError, match="bad item"):
        batcher.submit("bad").result()
    assert batcher.submit(1).result() == 2


def test_canceled_items_are_dropped(gate, batcher):
    first = batcher.submit(0)
    gate.entered.acquire()
    dropped, kept = batcher.submit(1), batcher.submit(2)
    assert dropped.cancel()
    gate.opened.set()
    assert [first.result(), kept.result()] == [0, 4]
    assert gate.batches == [[0], [2]]


def test_closing_finishes_the_submitted_items(gate):
    batcher = Batcher([gate], size=1, waiting=9)
    futures = [batcher.submit(number) for number in range(3)]
    gate.opened.set()
    batcher.close()
    assert [future.result() for future in futures] == [0, 2, 4]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(4)


def test_a_stage_runs_beside_the_next_batch(gate):
    second = Gate()
    batcher = Batcher([gate, second], size=1, waiting=9)
    gate.opened.set()
    futures = [batcher.submit(number) for number in (1, 2)]
    # The first stage gets the second item while the other has the first one.
    second.entered.acquire()
    gate.entered.acquire()
    gate.entered.acquire()
    assert not futures[0].done()
    second.opened.set()
    assert [future.result() for future in futures] == [4, 8]
    assert [gate.batches, second.batches] == [[[1], [2]], [[2], [4]]]
    batcher.close()


def test_a_slow_stage_holds_back_the_previous_one(gate):
    second = Gate()
    batcher = Batcher([gate, second], size=1, waiting=3)
    gate.opened.set()
    futures = [batcher.submit(0)]
    second.entered.acquire()
    # One batch waits between the stages, and one in front of them.
    for number in (1, 2):
        futures.append(batcher.submit(number))
        gate.entered.acquire()
    gate.entered.acquire()
    futures += [batcher.submit(number) for number in range(3, 6)]
    with pytest.raises(FullError):
        batcher.submit(6)
    second.opened.set()
    assert [future.result() for future in futures] == list(range(0, 24, 4))
    batcher.close()


def test_an_error_of_any_stage_ends_only_its_own_batch(gate):
    second = Gate()
    for each in (gate, second):
        each.opened.set()
    batcher = Batcher([lambda batch: batch, second], size=4, waiting=6)
    with pytest.raises(ValueError, match="bad item"):
        batcher.submit("bad").result()
    assert batcher.submit(1).result() == 2
    batcher.close()
    batcher = Batcher([lambda batch: [], gate], size=4, waiting=6)
    with pytest.raises(ValueError, match="0 values for 1 items"):
        batcher.submit(1).result()
    batcher.close()
    assert not gate.batches
