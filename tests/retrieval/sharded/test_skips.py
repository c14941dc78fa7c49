import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.retrieval.sharded import layout, skips
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def limit(tmp_path):
    """A limit of 2% for a table of 100 rows."""
    rows = [
        (f"s{i}", "query", f"{i}.png", "", "c", "", "train") for i in range(100)
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    frame.to_csv(tmp_path / "t.csv", index=False)
    return skips.Limit(tmp_path / "t.csv", 100, 0.02)


def make_skipped(count):
    return [
        layout.Skipped(i, f"s{i}", f"{i}.png", "missing", ": the file is gone.")
        for i in range(count)
    ]


def test_the_limit_is_inclusive(limit):
    limit.check(make_skipped(2))
    with pytest.raises(UserError, match="3 of 100 samples skipped"):
        limit.check(make_skipped(3))


def test_samples_are_described(limit, tmp_path):
    (tmp_path / "1.PNG").write_bytes(b"")
    described = limit.describe(make_skipped(2))
    assert str(described).endswith("unreadable images (2 missing)")
    first, second = described.examples
    assert first == (
        f"{tmp_path}/t.csv, line 2: {tmp_path}/0.png: the file is gone."
    )
    assert "1.PNG" in second  # a hint
    with pytest.raises(UserError, match=r"--max-skipped to 0\.03"):
        limit.describe(make_skipped(3))


def test_the_list_names_images_relative_to_the_table():
    lines = skips.csv_text(make_skipped(2)).splitlines()
    assert lines == [
        "sample_id,image,kind,reason,row",
        "s0,0.png,missing,0.png: the file is gone.,1",
        "s1,1.png,missing,1.png: the file is gone.,2",
    ]
