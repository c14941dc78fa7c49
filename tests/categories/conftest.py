"""Apache Beam has pins of its own, so its code runs in another process."""

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
    """The environment of a process that can import Beam.

    launch/test.sh installs it into a folder of its own, as PyTorch.
    """
    apart = sorted(pathlib.Path(sys.prefix).glob("apache-beam==*"))
    if not apart and importlib.util.find_spec("apache_beam") is None:
        pytest.skip("Apache Beam is not installed; launch/test.sh does it")
    path = os.pathsep.join(map(str, [*apart, ROOT]))
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def aggregate(beam_environment):
    """`gathering.aggregate` in a process of its own, which starts once."""
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
