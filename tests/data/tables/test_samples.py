"""Columns agree with the frame from which they are built."""

import pickle

import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables import samples, table


def make_frame(count=60, seed=0):
    """Returns random rows; some have no image or no text."""
    rng = np.random.default_rng(seed)
    rows = [
        (
            f"s{i}",
            samples.ROLES[rng.integers(2)],
            rng.choice(["", "a.png", "b.png", "c.png"]),
            rng.choice(["", "red", "green"]),
            f"c{rng.integers(7)}",
            "",
            "train",
        )
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


@pytest.mark.parametrize("stored", [False, True])
def test_columns_match_the_frame(tmp_path, stored):
    frame = make_frame()
    columns = samples.from_frame(frame)
    if stored:
        samples.write(tmp_path, columns)
        columns = samples.read(tmp_path)
    ids = list(columns.category_ids)
    assert ids == table.category_index(frame)
    assert len(columns) == len(frame)
    assert columns.num_categories == 7
    assert [ids[label] for label in columns.labels] == frame[
        "category_id"
    ].tolist()
    for role in samples.ROLES:
        has_role = frame["role"] == role
        own = np.flatnonzero(has_role)
        np.testing.assert_array_equal(columns.of_role(role), own)
        odd = np.arange(1, len(frame), 2)[::-1]
        np.testing.assert_array_equal(
            columns.select(odd, role), odd[has_role.to_numpy()[odd]]
        )
        for category, name in enumerate(ids):
            wanted = np.flatnonzero(has_role & (frame["category_id"] == name))
            np.testing.assert_array_equal(
                columns.of_category(role, category), wanted
            )
            assert columns.counts(role)[category] == len(wanted)
    for column, codes, first in (
        ("image", columns.images, columns.first_image),
        ("text", columns.texts, columns.first_text),
    ):
        values = frame[column].to_numpy()
        np.testing.assert_array_equal(codes < 0, values == "")
        distinct = [v for v in frame[column].unique() if v]
        assert values[first].tolist() == distinct
        shown = [distinct[code] if code >= 0 else "" for code in codes]
        assert shown == values.tolist()
        assert (np.diff(first) > 0).all()


def test_stored_columns_are_mapped_and_sent_by_name(tmp_path):
    samples.write(tmp_path, samples.from_frame(make_frame(5000)))
    columns = samples.read(tmp_path)
    assert isinstance(columns.labels.base, np.memmap)
    sent = pickle.dumps(columns)
    assert len(sent) < 1000
    copied = pickle.loads(sent)
    np.testing.assert_array_equal(copied.labels, columns.labels)
    assert isinstance(copied.labels.base, np.memmap)


def test_columns_in_memory_can_be_sent():
    columns = samples.from_frame(make_frame())
    copied = pickle.loads(pickle.dumps(columns))
    np.testing.assert_array_equal(copied.by_category, columns.by_category)


@pytest.mark.parametrize("stored", [False, True])
def test_there_may_be_no_samples(tmp_path, stored):
    columns = samples.from_frame(make_frame(0))
    if stored:
        samples.write(tmp_path, columns)
        columns = samples.read(tmp_path)
    assert len(columns) == columns.num_categories == 0
    assert [columns.of_role(role).size for role in samples.ROLES] == [0, 0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: np.save(path, np.zeros(59, np.int32)),
        lambda path: np.save(path, np.zeros(60, np.int64)),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
    ],
)
def test_damaged_columns_raise_an_error(tmp_path, damage):
    samples.write(tmp_path, samples.from_frame(make_frame()))
    damage(tmp_path / "images.npy")
    with pytest.raises((OSError, ValueError)):
        samples.read(tmp_path)
