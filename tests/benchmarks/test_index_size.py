"""Tests of the measurement of indexes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import index_size


def test_an_index_is_measured(monkeypatch):
    # A thread starts faster than a process.
    monkeypatch.setattr(
        index_size,
        "ProcessPoolExecutor",
        lambda count, _: ThreadPoolExecutor(1),
    )
    row = index_size.measure(2000, "f16", 64)
    # An embedding of 128 bytes, an ID, a text of 40 letters, a digest.
    assert 128 + 11 + 40 + 16 < row["disk_bytes"] < 500
    assert row["memory_bytes"] >= 0
    assert row["batch_ms"] > 0
    assert 0 < row["query_ms"] < 1000 * row["load_s"]
    assert index_size.table([row]).row_count == 1


@pytest.mark.parametrize("option", ["--items=1,x", "--storage=f8"])
def test_bad_options_are_reported(option, capsys):
    assert index_size.main([option]) == 2
    assert "separated by commas" in capsys.readouterr().err
