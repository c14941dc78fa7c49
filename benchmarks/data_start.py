"""Starts training on a table, up to the first batch, in a separate process.

Called by `data_scale`; prints a JSON object with `seconds` (from the start of
the process to the first batch on the device) and `mb` (the growth of anonymous
memory after all imports, up to its peak).
"""

import argparse
import json
import os
import pathlib
import threading
import time

import jax
from ml_collections import ConfigDict

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import inputs, loop
from mixer_jax.training.config import defaults

BATCH, SIZE = 64, 32  # samples, and side of their images in pixels
_POLL = 0.01  # seconds


def make_config(table: str, workers: int = 0) -> ConfigDict:
    """Returns a config that trains on a table, without augmentation."""
    config = defaults.defaults()
    config.batch_size = BATCH
    config.data.table, config.data.image_size = table, SIZE
    config.data.augment, config.data.workers = "none", workers
    return config


class Memory(threading.Thread):
    """Watches the anonymous memory of this process.

    Attributes:
      peak: the largest size so far, in bytes.
    """

    def __init__(self):
        """Takes a first reading; `start` keeps polling."""
        super().__init__(daemon=True)
        self.peak = self.now()

    @staticmethod
    def now() -> int:
        """Returns the current size in bytes."""
        status = pathlib.Path("/proc/self/status").read_text()
        (line,) = [x for x in status.splitlines() if x.startswith("RssAnon")]
        return int(line.split()[1]) << 10

    def run(self) -> None:
        """Polls until the process ends."""
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(_POLL)


def age() -> float:
    """Returns the seconds since this process was started."""
    fields = pathlib.Path("/proc/self/stat").read_text().rsplit(")")[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--position", type=int, default=0)
    given = parser.parse_args()
    assert loop  # Training imports it; count its memory as well.
    memory = Memory()
    before = memory.peak
    memory.start()
    config = make_config(given.table)
    loaded = inputs.load(config.data, prepare=True)
    batches = inputs.Pictures(loaded, config).train_batches()
    if given.position:
        batches.set_state({"next_index": given.position})
    batch = mesh_lib.put_batch(next(batches), mesh_lib.make_mesh())
    jax.block_until_ready(batch)
    seconds = age()
    peak = max(memory.peak, memory.now())
    print(json.dumps({"seconds": seconds, "mb": (peak - before) / 1e6}))


if __name__ == "__main__":
    main()
