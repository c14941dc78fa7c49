"""The package's wheel works outside a checkout."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
    "--config.steps=2",
    "--config.batch_size=8",
    "--config.data.image_size=32",
    "--config.evaluate.batch_size=8",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty working directory; the wheel is installed next to it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    tree = folder / "tree"
    names = ["mixer_jax", "configs", "pyproject.toml", "README.md", "LICENSE"]
    tree.mkdir()
    subprocess.run(["cp", "-a", *names, tree], cwd=ROOT, check=True)
    options = ["--no-deps", f"--wheel-dir={folder}"]
    subprocess.run([*pip, "wheel", *options, tree], check=True)
    (wheel,) = folder.glob("*.whl")
    target = f"--target={folder / 'installed'}"
    subprocess.run([*pip, "install", "--no-deps", target, wheel], check=True)
    (folder / "work").mkdir()
    return folder / "work"


def _environment(place):
    return os.environ | {"PYTHONPATH": str(place.parent / "installed")}


def _run(place, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=place,
        env=_environment(place),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(place):
    """A sample table of a few colors."""
    rng = np.random.default_rng(0)
    rows = []
    for category in range(8):
        for role in ("query", "document"):
            name = f"{role}{category}.png"
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / name)
            text = "a thing" if role == "document" else ""
            split = "test" if category < 2 else "train"
            row = (name, role, name, text, f"c{category}", "", split)
            rows.append(row)
    columns = [
        "sample_id",
        "role",
        "image",
        "text",
        "category_id",
        "group",
        "split",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(place / "t.csv", index=False)
    return place


def test_package_is_imported_from_the_wheel(place):
    path = _run(place, "-c", "import mixer_jax; print(mixer_jax.__file__)")
    assert str(place.parent / "installed") in path
    files = {p.name for p in (place.parent / "installed/mixer_jax").iterdir()}
    assert {"py.typed", "configs"} <= files


def test_commands_and_readme_example_run(data):
    run = ["-m", "mixer_jax.main", "--config=own_data", "--workdir=run"]
    _run(data, *run, "--config.data.table=t.csv", *TINY)
    _run(data, "-m", "mixer_jax.evaluate", "--workdir=run")
    _run(data, "-m", "mixer_jax.report", "--workdir=run")
    _run(data, "-m", "mixer_jax.export", "--workdir=run", "--out=bundle")
    (readme,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    for name in ("photo.png", "shoe.png"):
        (data / name).write_bytes((data / "query0.png").read_bytes())
    script = readme.replace("runs/quickstart", "bundle")
    _run(data, "-c", script + "assert cosines.shape == (1, 2)")
    made = ["--table=t.csv", "--out=index"]
    _run(data, "-m", "mixer_jax.index", "build", "--workdir=run", *made)
    _serve(data)


def test_own_config_can_import_the_common_one(data):
    (data / "mine.py").write_text(
        "from mixer_jax.configs import common\n"
        "def get_config(arg=''):\n"
        "    config = common.shrink(common.reference('mine', arg), arg)\n"
        "    config.data.table = 'mine.csv'\n"
        "    return config\n"
    )
    run = ["-m", "mixer_jax.main", "--config=mine.py:runlocal"]
    # Invalid input ends the command before any compilation.
    message = _run(data, *run, "--workdir=other", code=2)
    assert "mine.csv" in message


def _serve(place):
    with subprocess.Popen(
        [sys.executable, "-m", "mixer_jax.serve", "--index=index", "--port=0"],
        cwd=place,
        env=_environment(place),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            (url,) = re.findall(r"http://\S+", server.stdout.readline())
            with urllib.request.urlopen(url) as page:
                assert b"</html>" in page.read()
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0
