"""Pools of threads and processes that stop soon after an interrupt."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker

from mixer_jax.runtime import command


@contextlib.contextmanager
def pool(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Yields a thread pool; if the block raises, pending tasks are canceled.

    Args:
      threads: the number of threads; see `ThreadPoolExecutor`.
    """
    with _dropping(ThreadPoolExecutor(threads)) as executor:
        yield executor


@contextlib.contextmanager
def process_pool(number: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of processes; see `pool` and `shielded`.

    Args:
      number: the number of processes; None for one per core.
    """
    spawn = multiprocessing.get_context("spawn")
    number = number or os.cpu_count() or 1
    with shielded():
        executor = ProcessPoolExecutor(number, spawn, _mortal)
        for _ in range(number):  # The pool starts its processes for tasks.
            executor.submit(os.getpid)
    with _dropping(executor):
        yield executor


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Blocks interrupts in threads and processes started within the block.

    Terminals and many supervisors signal a whole process group, including
    processes that are still starting. These inherit the blocked signals; this
    process receives a signal in another thread or after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, command.SIGNALS)
    try:
        # Python's resource tracker ignores all of these signals but SIGHUP.
        # Starting it unblocks the ignored ones in this thread, so do it now.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, command.SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mortal() -> None:
    """Makes a process of a pool end together with its parent.

    Unblocks SIGTERM, which a pool sends to its processes if one dies.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _dropping(executor: Executor) -> Iterator[Executor]:
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
