import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.tabular.tables import Layout

NAMES = ("id", "a", "b")


def frame_of(rows):
    return pd.DataFrame(rows, columns=list(NAMES), dtype=object)


def rows_of(frame):
    return list(frame.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (np.array([12.0, np.nan, -3.0]), ["12", "", "-3"]),
        (np.array([1234567890123456.0]), ["1234567890123456"]),
        (np.array([7.0], np.float32), ["7"]),
        (pd.array([12, None], "Int64"), ["12", ""]),
        (pd.Categorical([b"a", None, b"b"]), ["a", "", "b"]),
        (pd.Categorical([1.0, 2.0]), ["1", "2"]),
        ([None, None], ["", ""]),
        (pa.array([b"a"], pa.large_binary()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([1200], pa.int64()).cast(pa.decimal128(30, 2)), ["1200"]),
    ],
)
def test_parquet_ids_are_read_as_texts(tmp_path, values, texts):
    path = tmp_path / "t.parquet"
    if not isinstance(values, pa.Array):
        values = pa.array(values, from_pandas=True)
    pq.write_table(pa.table({"id": values}), path)
    assert tables.read(path, Layout(("id",), ids=("id",)))["id"].tolist() == (
        texts
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, 2.5]), "row 2, column id: 2.5 is a float that"),
        (np.array([1.0, np.nan, np.inf]), "row 3, column id: inf is too large"),
        (np.array([2.0**53]), "row 1, column id: .* too large a float"),
        (np.array([2**24], np.float32), "too large a float"),
        ([[1], [2]], "column id: cells are of type"),
        (np.array([1], "timedelta64[s]"), "column id: cells are of type"),
        ([b"\xff"], "column id: a cell is not UTF-8 text"),
    ],
)
def test_inexact_or_unsupported_ids_are_rejected(tmp_path, values, message):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": pa.array(values)}), path)
    with pytest.raises(UserError, match=message):
        tables.read(path, Layout(("id",), ids=("id",)))


def test_non_id_columns_may_contain_fractions(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.5, 2.0, 1e20]}), path)
    assert tables.read(path, Layout(("a",)))["a"].tolist() == [
        "1.5",
        "2",
        "1e+20",
    ]


def test_unnamed_pandas_indices_are_not_columns(tmp_path):
    path = tmp_path / "t.parquet"
    frame = frame_of([("1", "2", "3"), ("4", "5", "6")])
    frame.set_index("id").to_parquet(path)
    assert rows_of(tables.read(path, Layout(NAMES, exact=True))) == rows_of(
        frame
    )
    frame.set_axis([7, 9]).to_parquet(path)
    assert rows_of(tables.read(path, Layout(NAMES, exact=True))) == rows_of(
        frame
    )


def test_invalid_utf8_in_a_string_column_is_rejected(tmp_path):
    path = tmp_path / "t.parquet"
    wrong = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"id": wrong}), path)
    with pytest.raises(UserError, match="column id: a cell is not UTF-8"):
        tables.read(path, Layout(("id",)))


def test_part_with_an_unsupported_type_is_reported(tmp_path):
    frame_of([("1", "2", "3")]).to_parquet(tmp_path / "a.parquet")
    frame_of([("1", ["2"], "3")]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet, row 1, column a: cells"):
        tables.read(tmp_path, Layout(NAMES))
