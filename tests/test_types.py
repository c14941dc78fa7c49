"""The types of the public API, as seen by a type checker."""

import pathlib
import subprocess
import sys

import pytest

import mixer_jax

ROOT = pathlib.Path(mixer_jax.__file__).parents[1]
# The modules that define public names or their types.
CHECKED = (
    "mixer_jax/__init__.py",
    "mixer_jax/api.py",
    "mixer_jax/retrieval/model.py",
    "mixer_jax/retrieval/zero_shot.py",
    "mixer_jax/service/items.py",
    "mixer_jax/service/opening.py",
    "mixer_jax/service/stores/interface.py",
    "mixer_jax/proxies/interface.py",
    "mixer_jax/proxies/heads/factory.py",
    "mixer_jax/proxies/row_optimizers.py",
)
RIGHT = """
import pathlib

import numpy as np
import pandas as pd
from PIL import Image

import mixer_jax

model: mixer_jax.Model = mixer_jax.load(pathlib.Path("runs"))
queries: np.ndarray = model.embed_queries(
    ["a.jpg", b"", Image.new("RGB", (2, 2)), np.zeros((2, 2, 3))]
)
documents: np.ndarray = model.embed_documents(["a.jpg", None], [None, "text"])
rows: list = model.evaluate("table.csv")
model.save("bundle")
found: pd.DataFrame = mixer_jax.find_categories("q", "i", "c", threshold=0.5)
trained: mixer_jax.Model = mixer_jax.train("stage1", "runs/stage1")
dim: int = mixer_jax.from_encoders(image="clip-vit-b-32").dim
index: mixer_jax.Index = mixer_jax.open_index("shop", model, thumbnails=0)
index.upsert(["1"], images=["a.jpg"], texts=None, fields=[{"price": 1.5}])
deleted: int = index.delete(["1"])
"""
WRONG = """
import mixer_jax

model = mixer_jax.load(1)  # a number
model.embed_queries([1.5])  # a number
dim: str = model.dim  # an int
mixer_jax.lead("runs")  # no such name
"""


def check(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent"]
        + ["--ignore-missing-imports", f"--cache-dir={folder / 'cache'}"]
        + list(arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_public_api_is_typed(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    done = check(*CHECKED, str(tmp_path / "right.py"), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "wrong.py").write_text(WRONG)
    done = check(str(tmp_path / "wrong.py"), folder=tmp_path)
    lines = [at for at, line in enumerate(WRONG.split("\n"), 1) if "#" in line]
    for line in lines:
        assert f"wrong.py:{line}: error" in done.stdout, done.stdout
    assert f"Found {len(lines)} errors" in done.stdout, done.stdout
