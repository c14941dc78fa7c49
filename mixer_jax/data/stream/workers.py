"""Batches that worker processes make, in the order of one process.

The n processes take every n-th batch each. A batch is a function of its
position, which is therefore all there is to save: what one number of workers
has left off, any other goes on with, and so do threads.
"""

import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import grain
import numpy as np
from absl import flags

from mixer_jax.runtime import command, threads

_BUFFER = 1  # batches that each worker keeps ready, besides those on the way


class WorkerBatches(grain.DatasetIterator):
    """Iterates over the elements of a dataset that processes compute.

    They start with the first element, import what the running command has
    imported, and get a copy of the dataset, through cloudpickle. Close it, or
    they live as long as this object.
    """

    def __init__(self, dataset: grain.MapDataset, workers: int):
        """Starts nothing yet.

        Args:
          dataset: that can be pickled, from its first element on.
          workers: how many processes, 1 or more.
        """
        super().__init__()
        self._dataset, self._workers = dataset, workers
        self._position = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        """Returns the next element; waits for its worker."""
        self._assert_not_closed()
        if self._running is None:
            # Grain starts the processes at the first element, in threads.
            with threads.shielded():
                self._running = self._start()
                element = next(self._running)
        else:
            element = next(self._running)
        self._position += 1
        return _own(element)

    def get_state(self) -> dict[str, int]:
        """Returns the position, in the form of Grain's threads."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position, by other processes if some run already."""
        self._stop()
        self._position = state["next_index"]

    def close(self) -> None:
        """Ends the processes; nothing can be read any more."""
        super().close()
        self._stop()

    def __del__(self):
        self._stop()

    def _start(self) -> grain.DatasetIterator:
        # Grain reads absl's flags, which are parsed in commands alone.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=_BUFFER
        )
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return iter(
            self._dataset.slice(slice(self._position, None))
            .to_iter_dataset(alone)
            .mp_prefetch(options, worker_init_fn=_prepare)
        )

    def _stop(self) -> None:
        running, self._running = getattr(self, "_running", None), None
        if running is not None:
            running.close()


def _own(element: Any) -> Any:
    """Copies arrays out of the memory that is shared with a worker.

    It is freed with the array, which may be too late: at the end of a process
    that failed, or while JAX still computes with what it takes for its own.
    """
    if isinstance(element, dict):
        return {name: _own(leaf) for name, leaf in element.items()}
    return np.array(element) if isinstance(element, np.ndarray) else element


def _prepare(index: int, count: int) -> None:
    """Makes a process a worker: it obeys its parent and no one else."""
    del index, count
    # Whoever stops a run signals all of its processes. The parent still wants
    # batches then, saves, and ends its workers itself.
    for number in command.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The accelerators are the parent's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
