"""Batches computed by worker processes, in the order of a single process.

Each of the n processes computes every n-th batch. A batch depends only on its
position, so the position is the only state: a run can resume with a different
number of workers, or with threads.
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

_BUFFER = 1  # batches buffered per worker, in addition to those in transit


class WorkerBatches(grain.DatasetIterator):
    """Iterator over the elements of a dataset, computed by worker processes.

    The processes start when the first element is read, import the modules that
    the running command has imported, and receive the dataset by cloudpickle.
    They end with `close`, or when this object is deleted.
    """

    def __init__(self, dataset: grain.MapDataset, workers: int):
        """Initializes the iterator without starting processes.

        Args:
          dataset: the dataset, which must be picklable.
          workers: number of processes, at least 1.
        """
        super().__init__()
        self._dataset, self._workers = dataset, workers
        self._position = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        """Returns the next element, waiting for its worker."""
        self._assert_not_closed()
        if self._running is None:
            # Grain's threads start the processes at the first element.
            with threads.shielded():
                self._running = self._start()
                element = next(self._running)
        else:
            element = next(self._running)
        self._position += 1
        return _own(element)

    def get_state(self) -> dict[str, int]:
        """Returns the position, in the format of Grain's threaded iterator."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to a position; running processes are replaced by new ones."""
        self._stop()
        self._position = state["next_index"]

    def close(self) -> None:
        """Ends the processes; no more elements can be read."""
        super().close()
        self._stop()

    def __del__(self):
        self._stop()

    def _start(self) -> grain.DatasetIterator:
        # Grain reads absl's flags, which only commands parse.
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
    """Copies arrays out of the memory shared with a worker.

    Shared memory is freed together with its array. This is unsafe when a failed
    process exits, and while JAX still computes on an alias of the memory.
    """
    if isinstance(element, dict):
        return {name: _own(leaf) for name, leaf in element.items()}
    return np.array(element) if isinstance(element, np.ndarray) else element


def _prepare(index: int, count: int) -> None:
    """Makes a worker ignore signals and end together with its parent."""
    del index, count
    # A stop signal reaches all processes of a run. The parent still needs
    # batches until it has saved a checkpoint; then it ends its workers itself.
    for number in command.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Accelerators are reserved for the parent.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
