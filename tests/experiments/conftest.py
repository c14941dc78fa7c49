"""Data and encoders for tiny experiments."""

import pytest

from mixer_jax.data.tables import table
from mixer_jax.experiments import frozen

SPLITS = {"red": "val", "green": "val", "blue": "test", "yellow": "test"}


@pytest.fixture
def tiny_table(colors):
    """A table with two categories in each of train, val and test."""
    root, frame = colors
    parts = frame["split"].str.partition("/")[2]
    splits = frame["category_id"].map(SPLITS).fillna("train")
    path = root / "folds" / "one.csv"
    path.parent.mkdir()
    images = f"{root}/" + frame["image"]
    table.write_table(
        frame.assign(split=splits + "/" + parts, image=images), path
    )
    return path


@pytest.fixture
def tiny_encoders(tiny_towers, monkeypatch):
    """Replaces the pretrained encoders with tiny, random ones."""
    monkeypatch.setattr(frozen, "load", lambda size, length: tiny_towers)
    return tiny_towers
