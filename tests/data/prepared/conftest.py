"""A small table with two splits, and its images."""

import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.tables import table


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture
def frame():
    rows = [
        (f"q{i}", "query", f"{i}.png", "", f"c{i}", "", split)
        for i, split in enumerate(("train/a", "test-x", "train/b"))
    ]
    rows += [
        (f"d{i}", "document", image, words, f"c{i}", "g", split)
        for i, (image, words, split) in enumerate(
            (
                ("3.png", "größe ✓", "test-x"),
                ("", "words only", "train/a"),
                ("5.png", "", "train/b"),
            )
        )
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)
