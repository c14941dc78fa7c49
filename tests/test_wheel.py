"""The package's wheel works outside a checkout.

`test_readme.py` runs all commands of the README with the wheel's package.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def _run(wheel, place, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_package_is_imported_from_the_wheel(wheel, tmp_path):
    show = "import mixer_jax; print(mixer_jax.__file__)"
    assert str(wheel) in _run(wheel, tmp_path, "-c", show)
    files = {path.name for path in (wheel / "mixer_jax").iterdir()}
    assert {"py.typed", "configs"} <= files


def test_reference_configs_need_no_path(wheel, tmp_path):
    run = ["-m", "mixer_jax.main", "--config=own_data", "--workdir=run"]
    # Invalid input ends the command before any compilation.
    table = "--config.data.table=none.csv"
    assert "none.csv" in _run(wheel, tmp_path, *run, table, code=2)


def test_own_config_can_import_the_common_one(wheel, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from mixer_jax.configs import common\n"
        "def get_config(arg=''):\n"
        "    config = common.shrink(common.reference('mine', arg), arg)\n"
        "    config.data.table = 'mine.csv'\n"
        "    return config\n"
    )
    run = ["-m", "mixer_jax.main", "--config=mine.py:runlocal"]
    message = _run(wheel, tmp_path, *run, "--workdir=other", code=2)
    assert "mine.csv" in message
