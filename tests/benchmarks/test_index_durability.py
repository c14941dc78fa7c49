import pytest

from benchmarks import index_durability
from mixer_jax.service.stores import place


@pytest.mark.parametrize(
    ("name", "operations", "kills"), [("index", 200, 5), ("index.db", 90, 3)]
)
def test_nothing_acknowledged_is_lost(tmp_path, name, operations, kills):
    row = index_durability.run(tmp_path / name, operations, kills)
    assert (row["lost"], row["torn"], row["wrong_hits"]) == (0, 0, 0)
    assert row["kills"] == kills
    assert row["operations"] == operations
    assert row["searches"] > 0


def check(store, log, notes):
    log.write_bytes(notes)
    zero = index_durability.Count()
    count, _ = index_durability._check(store, log, 0, {}, zero)
    return count.lost, count.torn


def test_losses_are_noticed(tmp_path):
    folder, log = tmp_path / "index", tmp_path / "log"
    with place.find(folder).draft(index_durability.PROPERTIES) as store:
        for number in range(20):
            items, ids = index_durability.operation(number)
            store.delete(ids)
            store.upsert(items)
        assert check(store, log, b"ba" * 20) == (0, 0)
        assert check(store, log, b"ba" * 20 + b"b") == (0, 0)
        assert check(store, log, b"ba" * 21) == (1, 0)
        items, _ = index_durability.operation(20)
        assert len(items) == 2
        store.upsert(items[:1])
        assert check(store, log, b"ba" * 20 + b"b") == (0, 1)
        store.upsert(items)
        assert check(store, log, b"ba" * 21) == (0, 0)
