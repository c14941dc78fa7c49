"""The quickstart trains the same with any number of processes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import several

CONFIG = several.ROOT / "configs" / "quickstart.py"
STAGES = ("stage1", "stage2", "stage3")
STEPS = 12
DEVICES = 4


def flags(data):
    """Flags that shorten the curriculum and use tiny encoders."""
    few = {
        "steps": STEPS,
        "data.image_size": 16,
        "model.image.name": "tiny",
        "model.image.hypercolumns": False,
        "model.image.pretrained": "",
        "model.text.name": "tiny",
        "model.text.pretrained": "",
        "model.dim": 32,
        "model.hidden": 64,
        "model.slots": 32,
        "head.refresh": 8,
        "monitors.every": 1000,
        "checkpoint.every": STEPS,
    }
    for stage in STAGES:
        table = data / ("medium.csv" if stage == "stage1" else "large.csv")
        for name, value in (few | {"data.table": table}).items():
            yield f"--config.{stage}.{name}={value}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    command = ["-m", "mixer_jax.demo.emoji", "--limit=48", "--size=32"]
    command = [sys.executable, *command, f"--out={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def train(data, tmp_path_factory):
    """Trains in several processes; returns the losses `[stage, step]`."""
    cache = tmp_path_factory.mktemp("compiled")

    def train(processes):
        workdir = tmp_path_factory.mktemp("run")
        begun = several.begin(
            (
                *("-m", "benchmarks.chaos_main", f"--config={CONFIG}:smoke"),
                *(f"--workdir={workdir}", *flags(data)),
            ),
            processes,
            DEVICES // processes,
            cache,
            # The number of threads sets the order of summation in matrix
            # products, so it must not depend on the number of processes.
            coordinate_one=True,
            NPROC=str(DEVICES),
        )
        for ended in several.finish(begun):
            assert ended.code == 0, ended.error
        return np.array([losses(workdir / stage) for stage in STAGES])

    return train


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_processes(train):
    one = train(1)
    assert one.shape == (len(STAGES), STEPS)
    assert np.all(np.isfinite(one))
    assert np.all(np.ptp(one, axis=1) > 0.1)
    np.testing.assert_allclose(train(4), one, rtol=1e-5)
