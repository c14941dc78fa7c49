import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.retrieval.sharded import layout, plan
from mixer_jax.runtime.errors import UserError


def make_frame(count, start=0):
    """Returns rows of alternating roles."""
    rows = [
        (f"é{i}", "document", f"{i}.png", f"text {i}", "c", "", "train")
        if i % 3
        else (f"é{i}", "query", f"{i}.png", "", "c", "g", "test")
        for i in range(start, start + count)
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_shards_hold_the_rows_of_the_table(tmp_path, monkeypatch, batch):
    frame = make_frame(40)
    frame.to_parquet(tmp_path / "t.parquet")
    batches = plan.tables.batches
    monkeypatch.setattr(
        plan.tables, "batches", lambda *given: batches(*given, rows=batch)
    )
    shards = plan.make(tmp_path / "t.parquet", tmp_path, 10)
    assert [(one.role, one.number, one.rows) for one in shards] == [
        *(("query", 0, 10), ("query", 1, 4)),
        *(("document", 0, 10), ("document", 1, 10), ("document", 2, 6)),
    ]
    assert plan.read(tmp_path) == shards
    for role in ("query", "document"):
        ours = [one for one in shards if one.role == role]
        rows = pd.concat([plan.read_rows(tmp_path, one) for one in ours])
        wanted = frame[frame["role"] == role][["sample_id", "image", "text"]]
        pd.testing.assert_frame_equal(
            rows, wanted, check_names=False, check_dtype=False
        )
        sizes = [len(name.encode()) for name in wanted["sample_id"]]
        assert sum(one.id_bytes for one in ours) == sum(sizes)


def test_keys_tell_rows_apart(tmp_path):
    frame = make_frame(40)

    def keys(frame):
        frame.to_parquet(tmp_path / "t.parquet")
        shards = plan.make(tmp_path / "t.parquet", tmp_path, 10)
        return {shard.name: shard.key for shard in shards}

    first = keys(frame)
    # Categories and splits do not matter.
    assert keys(frame.assign(category_id="x", split="a/b", group="")) == first
    frame.loc[1, "text"] = "another"
    changed = keys(frame)
    assert [name for name in first if first[name] != changed[name]] == [
        "documents/part-00000.parquet"
    ]


def test_invalid_tables_are_rejected(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    header = ",".join(table.COLUMNS)
    path.write_text(f"{header}\n")
    with pytest.raises(UserError, match="has no rows, only a header"):
        plan.make(path, tmp_path, 10)
    wrong = make_frame(40).replace({"role": {"query": "searcher"}})
    wrong.to_csv(path, index=False)
    with pytest.raises(UserError, match="line 2, column role: the role is 's"):
        plan.make(path, tmp_path, 10)
    # A repeated ID is found, however few IDs are compared at once.
    for compared in (4, 1 << 20):
        monkeypatch.setattr(plan, "_COMPARED", compared)
        frame = make_frame(40)
        frame.loc[35, "sample_id"] = frame.loc[2, "sample_id"]
        frame.to_csv(path, index=False)
        with pytest.raises(UserError, match=r"line 37, .* the same ID 'é2'"):
            plan.make(path, tmp_path, 10)
        make_frame(40).to_csv(path, index=False)
        assert len(plan.make(path, tmp_path, 10)) == 5
    assert not list((tmp_path / layout.WORK).rglob("*.draft"))
