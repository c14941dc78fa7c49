"""The data is checked and counted before training."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables import table
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs
from mixer_jax.training.cache import stored


def test_describe_counts_rows_and_categories(tiny_config):
    loaded = inputs.load(tiny_config.data)
    names = [f"c{i:02d}" for i in range(12)]
    assert list(loaded.samples.category_ids) == names
    assert inputs.describe(loaded) == {
        "queries": 24,
        "documents": 24,
        "categories": 12,
        "skipped": 0,
    }


def test_batches_have_the_configured_size(tiny_config):
    loaded = inputs.load(tiny_config.data, prepare=True)
    content = inputs.Pictures(loaded, tiny_config)
    batch = next(content.train_batches())
    assert batch["query"]["image"].shape == (8, 16, 16, 3)
    assert batch["document"]["tokens"].shape == (8, 8)


def test_evaluation_batches_yield_the_given_rows_of_a_role(tiny_config):
    loaded = inputs.load(tiny_config.data, prepare=True)
    content = inputs.Pictures(loaded, tiny_config)
    rows = np.arange(1, 48, 3)
    batches = list(content.evaluation_batches("document", 5, rows))
    index = np.concatenate([batch["index"] for batch in batches])
    wanted = rows[loaded.samples.is_document[rows]].tolist()
    assert index[index >= 0].tolist() == wanted
    for batch in batches:
        np.testing.assert_array_equal(batch["mask"], batch["index"] >= 0)
        assert batch["document"]["image"].shape == (5, 16, 16, 3)


@pytest.fixture
def broken(tmp_path, toy, tiny_config):
    """A table in which a bad image leaves a category with one sample."""
    path = toy.write_table(tmp_path / "table", categories=4)
    frame = table.read_table(path)
    lonely = (frame["category_id"] == "c03") & ~frame["sample_id"].isin(
        ["query-3-0", "document-3-0"]
    )
    table.write_table(frame[~lonely], path)
    (path.parent / "query-3-0.png").write_bytes(b"no image")
    tiny_config.data.table = str(path)
    return tiny_config


@pytest.mark.parametrize("prepare", [False, True])
def test_bad_images_and_lone_samples_are_skipped(broken, prepare):
    broken.data.max_skipped = 0.5
    loaded = inputs.load(broken.data, prepare=prepare)
    assert list(loaded.samples.category_ids) == ["c00", "c01", "c02"]
    assert [s.count for s in loaded.skipped] == [1, 1]


@pytest.mark.parametrize("prepare", [False, True])
def test_too_many_bad_images_raise_an_error(broken, prepare):
    for _ in range(2):
        with pytest.raises(UserError, match=r"query-3-0\.png"):
            inputs.load(broken.data, prepare=prepare)


def test_no_image_is_decoded_once_the_data_is_prepared(broken, monkeypatch):
    broken.data.max_skipped = 0.5
    first = inputs.load(broken.data, prepare=True)
    monkeypatch.setattr(decoding, "decode", None)
    monkeypatch.setattr(decoding, "check", None)
    for prepare in (False, True):
        loaded = inputs.load(broken.data, prepare=prepare)
        assert loaded.skipped == first.skipped
        assert loaded.content == first.content
        assert loaded.origin == first.origin
        table_path = pathlib.Path(broken.data.table)
        images = table.read_table(table_path).set_index("sample_id")["image"]
        assert len(loaded.samples) == len(loaded.source) == 12
        for row in range(len(loaded.source)):
            assert loaded.source[row] == first.source[row]
            name = loaded.source.name(row).removeprefix("sample ")
            path = table_path.parent / images[name]
            assert loaded.source[row][0] == path.read_bytes()


@pytest.mark.parametrize("prepare", [False, True])
def test_skipped_images_are_listed_in_the_workdir(broken, tmp_path, prepare):
    workdir = tmp_path / "new" / "run"
    with pytest.raises(UserError, match=r"run/skipped\.csv lists them"):
        inputs.load(broken.data, workdir, prepare=prepare)
    broken.data.max_skipped = 0.5
    loaded = inputs.load(broken.data, workdir, prepare=prepare)
    assert str(workdir / "skipped.csv") in str(loaded.skipped[0])
    listed = pd.read_csv(workdir / "skipped.csv")
    assert listed["sample_id"].tolist() == ["query-3-0"]
    assert listed["kind"].tolist() == ["not an image"]
    with pytest.raises(UserError, match="--workdir"):
        inputs.load(broken.data, workdir / "skipped.csv" / "run")


@pytest.mark.parametrize("cached", [False, True])
def test_sampling_follows_the_config(toy, tiny_config, tmp_path, cached):
    tiny_config.data.sampler = "balanced"
    tiny_config.data.samples_per_category = 2
    loaded = inputs.load(tiny_config.data, prepare=True)
    content = inputs.Pictures(loaded, tiny_config)
    if cached:
        content = stored.StoredContent(loaded, tiny_config)
        content.batch = lambda rows, role: {"row": rows}
    batch = next(content.train_batches())
    kinds = [
        np.unique(part["label"], return_counts=True) for part in batch.values()
    ]
    assert [seen.tolist() for _, seen in kinds] == [[2] * 4] * 2
    np.testing.assert_array_equal(kinds[0][0], kinds[1][0])


def test_rare_categories_have_larger_margins(tiny_config):
    loaded = inputs.load(tiny_config.data)
    assert inputs.margin_sizes(loaded, tiny_config.head) is None
    # c00 keeps one of its four samples.
    frame = table.read_table(tiny_config.data.table)
    of_first = np.flatnonzero(frame["category_id"] == "c00")
    samples = samples_lib.from_frame(frame.drop(index=of_first[1:]))
    tiny_config.head.margin_power = 0.5
    tiny_config.head.margin_size = 0.4
    rare = loaded._replace(samples=samples)
    sizes = inputs.margin_sizes(rare, tiny_config.head)
    np.testing.assert_allclose(sizes, [0.4] + [0.2] * 11, rtol=1e-6)
    batch = {
        "query": {"label": np.array([0, 3])},
        "document": {"label": np.array([5, 0])},
    }
    added = inputs.add_margins(batch, sizes)
    np.testing.assert_allclose(added["query"]["margin"], [0.4, 0.2])
    np.testing.assert_allclose(added["document"]["margin"], [0.2, 0.4])
    assert inputs.add_margins(batch, None) is batch
