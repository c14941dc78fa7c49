"""Runs Beam code in a separate process, as Beam pins other packages."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from mixer_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def beam_environment():
    """Environment variables for a process that can import Beam.

    launch/test.sh installs Beam, like PyTorch, into a separate folder.
    """
    folders = sorted(pathlib.Path(sys.prefix).glob("apache-beam==*"))
    if not folders and importlib.util.find_spec("apache_beam") is None:
        pytest.skip("Apache Beam is not installed; launch/test.sh installs it")
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def aggregate(beam_environment):
    """Calls `gathering.aggregate` in a separate process, started once."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests/categories/beam_worker.py"],
        env=beam_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call(files, out, **settings):
        job = {"files": list(map(str, files)), "out": str(out), **settings}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["figures"]

    yield call
    process.communicate(timeout=60)
