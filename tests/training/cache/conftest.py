"""A stage on a table with empty cells, and its store."""

import io

import jax
import numpy as np
import pytest
import rich.console

from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import initialize, loop, setup
from mixer_jax.training.checkpoint import checkpoints


@pytest.fixture
def cached_config(toy, cached_config, tmp_path):
    """A stage that caches features, on a table with empty cells."""
    path = toy.write_table(tmp_path / "table")
    frame = table.read_table(path)
    documents = np.flatnonzero(frame["role"] == table.DOCUMENT)
    frame.loc[documents[0], "text"] = ""
    frame.loc[documents[1], "image"] = ""
    table.write_table(frame, path)
    cached_config.data.table = str(path)
    cached_config.evaluate.batch_size = 8
    return cached_config


@pytest.fixture
def make_stage(tmp_path):
    """Returns (run, variables, make): `make()` creates a store."""

    def make_stage(config, store):
        mesh = mesh_lib.make_mesh(jax.devices()[:2])
        run = setup.make(config, tmp_path / "stage", mesh)
        variables = initialize.initial_variables(run)

        def make(variables=variables, output=None):
            return store.make(
                tmp_path / "features",
                run.inputs,
                run.config,
                run.model,
                variables,
                mesh,
                lambda text: print(text, file=output or io.StringIO()),
            )

        return run, variables, make

    return make_stage


@pytest.fixture
def train(tmp_path):
    """Trains a stage on two devices; returns its last state."""

    def train(config, folder):
        mesh = mesh_lib.make_mesh(jax.devices()[:2])
        console = rich.console.Console(file=io.StringIO())
        return loop.train(config, tmp_path / folder, mesh, console)

    return train


@pytest.fixture
def train_with_interruption(train):
    """Trains a stage that is killed after saving step 3 and then resumed."""
    save = checkpoints.Checkpoints.save

    def die(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if step == 3:
            raise KeyboardInterrupt

    def train_with_interruption(config, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints.Checkpoints, "save", die)
            with pytest.raises(KeyboardInterrupt):
                train(config, folder)
        return train(config, folder)

    return train_with_interruption
