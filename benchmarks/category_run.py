"""Runs some phases of a training run's life cycle in a separate process.

Called by `category_scale` with a job as JSON; prints a JSON list with one row
per phase: its duration, the bytes of this process's proxies, optimizer rows and
class graph (none during an export), and the process's peak anonymous memory. On
a CPU, the peak includes these arrays and everything else in the process.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.data_start import Memory
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.proxies import row_optimizers
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.retrieval import export
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.tabular import strings
from mixer_jax.training import abstract_step, initialize, inputs, setup
from mixer_jax.training.cache import stored
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.checkpoint.checkpoints import Checkpoints
from mixer_jax.training.config import defaults
from mixer_jax.training.state import TrainState

STEPS, BATCH = 20, 256
SAMPLES, GROWN = "samples", "grown.arrow"  # in the job's folder
_SHUFFLE = 7919  # prime; consecutive samples belong to distant categories


@dataclasses.dataclass(frozen=True)
class Job:
    """The phases of a run.

    Attributes:
      folder: holds the samples, the run and the export; see `write`.
      categories: C.
      dim: D.
      head: the head's name.
      neighbors: K of the class graph, if the head has one.
      optimizer: the row optimizer's name.
      phases: names of functions below.
    """

    folder: str
    categories: int
    dim: int
    head: str
    neighbors: int
    optimizer: str
    phases: tuple[str, ...]


class Names(Sequence[str]):
    """C sorted IDs, generated on access.

    In the grown table, every hundredth category is missing, and a new one has
    been inserted elsewhere.
    """

    def __init__(self, count: int, grown: bool = False):
        """Takes C and whether to generate the grown table's IDs."""
        self._count, self._grown = count, grown

    def __len__(self) -> int:
        """Returns C."""
        return self._count

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Returns an ID, or a list of IDs for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        place = range(self._count)[index]
        if not self._grown:
            return f"c{place:09d}"
        block, place = divmod(place, 100)
        number = block * 100 + (place if place >= 50 else place + 1)
        return f"c{number:09d}" + ("new" if place == 50 else "")


def write(folder: pathlib.Path, count: int) -> None:
    """Writes the samples of C categories: one query and one document each."""
    if not count % _SHUFFLE:
        raise ValueError(f"{count} must not be a multiple of {_SHUFFLE}")
    labels = (np.arange(count) * _SHUFFLE % count).astype(np.int32)
    places = np.zeros(count, np.int64)
    places[labels] = np.arange(count)
    everything = np.arange(2 * count)
    ends = np.arange(count + 1)
    columns = {
        "labels": np.tile(labels, 2),
        "is_document": everything >= count,
        "by_role": everything,
        "by_category": np.concatenate([places, places + count]),
        "begins": np.stack([ends, ends + count]),
        "images": np.zeros(2 * count, np.int32),
        "texts": np.full(2 * count, -1, np.int32),
        "first_image": np.zeros(1, np.int64),
        "first_text": np.zeros(0, np.int64),
    }
    (folder / SAMPLES).mkdir()
    samples = samples_lib.Samples(Names(count), columns)
    samples_lib.write(folder / SAMPLES, samples)
    strings.write(folder / GROWN, Names(count, grown=True))


class Embeddings(stored.StoredContent):
    """Synthetic embeddings, computed from the indices of samples and labels.

    They replace the stored embeddings of frozen encoders.
    """

    def batch(self, rows: np.ndarray, role: str) -> stored.Batch:
        """Returns `embedding`, f32 `[B, D]`."""
        del role
        labels = self._inputs.samples.labels[rows]
        waves = np.arange(1, self._config.model.dim + 1, dtype=np.float32)
        own = np.sin(labels[:, None] * np.sqrt(waves))
        return {"embedding": own + 0.1 * np.cos(rows[:, None] * waves)}


class Run:
    """A training run on synthetic embeddings, with a method per phase."""

    def __init__(self, job: Job):
        """Opens the samples; makes no arrays."""
        self.folder = pathlib.Path(job.folder)
        self.workdir = self.folder / "run"
        self.config = make_config(job)
        samples = samples_lib.read(self.folder / SAMPLES)
        self.inputs = inputs.Inputs(samples, source=None, tokenizer=None)
        self.mesh = mesh_lib.make_mesh()
        self.setup = setup.assemble(self.config, job.categories, self.mesh)
        self.setup = self.setup._replace(inputs=self.inputs)
        self.content = Embeddings(self.inputs, self.config)
        self.state: TrainState | None = None

    @property
    def share(self) -> int:
        """Bytes of proxies, optimizer rows and graph in this process."""
        state = self.setup.state
        rows = jax.tree.leaves((state.proxies, state.proxy_state, state.graph))
        return sum(x.size * x.dtype.itemsize for x in rows)

    def initialize(self) -> None:
        """Draws random proxies."""
        config = self.config
        self.state = rows_lib.init_proxies(
            jax.random.key(0),
            self.inputs.samples.num_categories,
            config.model.dim,
            self.mesh,
            dtype=row_optimizers.rows_dtype(config.proxies),
        )

    def imprint(self) -> None:
        """Makes the initial state, with proxies imprinted from all samples."""
        self.state = None
        variables = initialize.initial_variables(self.setup)
        self.state = initialize.initial_state(
            self.setup, variables, self.content
        )

    def train(self) -> None:
        """Trains for `STEPS` steps."""
        step = abstract_step.make_step(self.setup)
        batches = self.content.train_batches()
        for _ in range(STEPS):
            batch = mesh_lib.put_batch(next(batches), self.mesh)
            self.state, _ = step(self.state, batch)
        batches.close()

    def save(self) -> None:
        """Saves the run."""
        ids = self.inputs.samples.category_ids
        workdir_lib.prepare(self.workdir, self.config, ids)
        with Checkpoints(self.workdir) as checkpoints:
            checkpoints.save(STEPS, self.state, {}, force=True)

    def restore(self) -> None:
        """Restores the run."""
        ids = self.inputs.samples.category_ids
        workdir_lib.check_categories(self.workdir, ids)
        with Checkpoints(self.workdir) as checkpoints:
            self.state, _ = checkpoints.restore(self.setup.state)

    def grow(self) -> None:
        """Starts another run from this one, with the grown table's IDs."""
        samples = self.inputs.samples
        samples.category_ids = strings.Strings(self.folder / GROWN)
        self.config.init_from = str(self.workdir)
        self.imprint()

    def export(self) -> None:
        """Exports the proxies and their IDs."""
        export.write(self.workdir, self.folder / "export")


def make_config(job: Job) -> ConfigDict:
    """Returns a config that trains the proxies on stored embeddings."""
    config = defaults.defaults()
    config.batch_size, config.steps = BATCH, STEPS
    config.data.cached, config.data.augment = True, "none"
    config.model.dim, config.model.fusion = job.dim, "image_only"
    config.model.image.name = "efficientnet-lite0"
    config.model.image.batch_norm = "frozen"
    config.optimizer.parts = (("", 0.0),)
    config.head.name, config.head.neighbors = job.head, job.neighbors
    # Each device needs room for all positives of a batch.
    config.head.active = max(0.01, min(1.0, 32 * BATCH / job.categories))
    config.proxies.init, config.proxies.optimizer = "imprint", job.optimizer
    config.proxies.momentum = 0.0
    config.evaluate.batch_size = 4096
    return config


def measure(run: Run, phases: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields a row per phase."""
    memory = Memory()
    memory.start()
    for phase in phases:
        memory.peak = memory.now()
        seconds = _time(getattr(run, phase), run)
        peak = max(memory.peak, memory.now())
        share = 0 if phase == "export" else run.share
        yield {
            "phase": phase,
            "devices": run.mesh.size,
            "seconds": seconds,
            "share_mb": share / 1e6,
            "peak_mb": peak / 1e6,
            "beyond_mb": (peak - share) / 1e6,
        }


def _time(phase: Callable[[], None], run: Run) -> float:
    begin = time.perf_counter()
    phase()
    jax.block_until_ready(run.state)
    return time.perf_counter() - begin


def main() -> None:
    """Runs the command."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(list(measure(Run(job), job.phases))))


if __name__ == "__main__":
    main()
