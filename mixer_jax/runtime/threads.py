"""Pools of threads and processes that an interrupt ends soon."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor


@contextlib.contextmanager
def pool(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Gives a pool of threads; if the block raises, what waits is dropped.

    Args:
      threads: how many; default a few more than there are cores.
    """
    with _dropping(ThreadPoolExecutor(threads)) as executor:
        yield executor


@contextlib.contextmanager
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """Gives a pool of a process per core; see `pool` and `shielded`."""
    spawn = multiprocessing.get_context("spawn")
    with _dropping(ProcessPoolExecutor(None, spawn)) as executor:
        yield executor


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Lets processes that are started within leave Ctrl-C to this one.

    A terminal sends it to all of them, also while they are still starting.
    They inherit what is blocked here; this process gets it after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _dropping(executor: Executor) -> Iterator[Executor]:
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
