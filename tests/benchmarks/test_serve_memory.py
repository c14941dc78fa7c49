"""The memory of a service that gets bombs and large pictures at once."""

import pathlib

import pytest

from benchmarks import serve_memory


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux"
)
def test_bombs_stay_within_the_budget_while_large_pictures_are_answered():
    rows = serve_memory.measure()
    assert [row["side"] for row in rows] == [14_000, 7_000]
    assert all(row["bomb_kb"] < 1000 for row in rows)
    # The first bombs are above the limit, the second ones just below.
    assert [row["bombs"] for row in rows] == [[400], [200]]
    for row in rows:
        assert (row["jpeg"], row["png"]) == (200, 200)
        assert row["growth_mb"] < row["budget_mb"]
    # Some of the second bombs were decoded at the same time.
    assert rows[1]["growth_mb"] > 2 * 49 * 4
    assert serve_memory.table(rows).row_count == 2
