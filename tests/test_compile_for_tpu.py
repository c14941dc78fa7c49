"""The compile_for_tpu command, run as a user would."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/stage2.py:runlocal"
# A small encoder that compiles in seconds.
SMALL = (
    "--config.model.image.name=resnet18",
    "--config.model.fusion=image_only",
    "--config.data.image_size=32",
    "--config.head.active=0.5",
)
pytestmark = pytest.mark.skipif(
    "TPU_LIBRARY_PATH" not in os.environ
    and importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler, libtpu, is not installed",
)


# The tests set these variables, which would change the compiled program.
WITHOUT = {"JAX_PLATFORMS", "JAX_DISABLE_MOST_OPTIMIZATIONS"}


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "mixer_jax.compile_for_tpu", CONFIG, *flags],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in WITHOUT}
        | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_stage_is_compiled_without_data(tmp_path):
    file = tmp_path / "rows.json"
    done = run(
        "--topology=v5e:2x2", "--categories=5000", f"--json={file}", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # The compiler prints no warnings.
    assert "5,000 categories, knn head" in done.stdout
    assert "roofline: maximum" in done.stdout
    step, graph = json.loads(file.read_text())
    assert step["program"] == "step"
    assert graph["program"] == "graph"
    assert 0 < step["total"] < step["capacity"]
    assert "all-gather" in step["collectives"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:3x3"], "no TPU topology 'v5e:3x3'"),
        (["--topology=v5e:2x2", "--json=/dev/null/rows"], "Not a directory"),
        (["--topology=v5e:16x16"], "must be a multiple of 512"),
        (["--topology=v5e:2x2", "--categories=1"], "categories=1"),
        ([], "--topology"),
    ],
)
def test_invalid_arguments_are_rejected(flags, message):
    done = run(*flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
