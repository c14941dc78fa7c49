import pyarrow as pa

from mixer_jax.runtime.tabular import cells


def test_zero_with_many_decimals_is_written_as_zero():
    column = pa.array([0, 5, -1], pa.int64()).cast(pa.decimal128(38, 9))
    assert cells.as_text(column, "").to_pylist() == ["0", "5", "-1"]
