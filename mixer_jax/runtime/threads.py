"""Pools of threads and processes that stop soon after an interrupt."""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor


@contextlib.contextmanager
def pool(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Yields a thread pool; if the block raises, pending tasks are cancelled.

    Args:
      threads: the number of threads; default that of `ThreadPoolExecutor`.
    """
    with _dropping(ThreadPoolExecutor(threads)) as executor:
        yield executor


@contextlib.contextmanager
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of one process per core; see `pool` and `shielded`."""
    spawn = multiprocessing.get_context("spawn")
    with _dropping(ProcessPoolExecutor(None, spawn)) as executor:
        yield executor


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Blocks Ctrl-C in processes that are started within the block.

    A terminal sends SIGINT to all processes of the group, even while they are
    starting. The children inherit the blocked signal; this process receives it
    after the block.
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
