import numpy as np
import pandas as pd
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import sources


def write(path, **columns):
    pd.DataFrame(columns).to_parquet(path)
    return path


def chunks(path, **kinds):
    return list(sources.open_source(embeddings=path, kinds=kinds).chunks())


def test_rows_of_an_item_are_in_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 2)
    path = write(
        tmp_path / "a.parquet",
        sample_id=list("abcdefg"),
        item_id=["", "x", "x", "x", "", "y", "y"],
        embedding=np.arange(14.0).reshape(7, 2).tolist(),
    )
    found = [list(one.frame.item_id) for one in chunks(path)]
    assert found == [["a"], ["x", "x", "x", "e"], ["y", "y"]]
    rows = np.concatenate([one.embeddings for one in chunks(path)])
    np.testing.assert_array_equal(rows, np.arange(14).reshape(7, 2))


@pytest.mark.parametrize(
    ("ids", "items"),
    [
        ("abcdefg", ["x", "", "", "", "", "x", ""]),
        ("xbcdefg", ["", "", "", "", "", "x", ""]),
        ("abcdefx", ["x", "", "", "", "", "", ""]),
        ("xbcdefx", [""] * 7),
    ],
)
def test_scattered_rows_of_an_item_are_rejected(
    tmp_path, monkeypatch, ids, items
):
    monkeypatch.setattr(sources, "ROWS", 2)
    path = write(
        tmp_path / "a.parquet",
        sample_id=list(ids),
        item_id=items,
        embedding=[[1.0]] * 7,
    )
    with pytest.raises(UserError, match=r"'x' .* adjacent; sort .* item_id"):
        chunks(path)


def test_invalid_files_are_rejected(tmp_path):
    path = tmp_path / "a.parquet"
    for columns, message in (
        ({"sample_id": ["a"]}, "no column embedding"),
        ({"embedding": [[1.0]]}, "no column sample_id"),
        ({"sample_id": [], "embedding": []}, "no rows"),
        ({"sample_id": ["a"], "embedding": [1.0]}, "lists of numbers"),
        ({"sample_id": ["a"], "embedding": [["x"]]}, "lists of numbers"),
        (
            {"sample_id": ["a", "b"], "embedding": [[1.0], [1.0, 2]]},
            "lists of numbers, all of the same length",
        ),
    ):
        with pytest.raises(UserError, match=message):
            chunks(write(path, **columns))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read"):
        chunks(path)
    with pytest.raises(UserError, match="no embeddings at"):
        chunks(tmp_path / "no")
    with pytest.raises(UserError, match="no complete embeddings"):
        chunks(tmp_path)
    with pytest.raises(UserError, match="only be selected from a --table"):
        sources.open_source(embeddings=path, split="a", kinds={})
