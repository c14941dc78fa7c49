import numpy as np
import pytest

from mixer_jax.data.prepared import planning


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_shards_have_every_row_of_their_split_once(number):
    splits = np.array(list("abbabbb"), object)
    ids = np.array([f"s{i}" for i in range(7)], object)
    plan = planning.plan(splits, ids, number)
    for split in "ab":
        own = [shard for shard in plan if shard.split == split]
        rows = np.concatenate([shard.rows for shard in own])
        np.testing.assert_array_equal(rows, np.flatnonzero(splits == split))
        assert len(own) == max(1, min(number, len(rows)))
        assert own[0].name == (
            f"sample_table-{split}.array_record-00000-of-{len(own):05}"
        )


def plan_sizes(ids):
    ids = np.array(ids, object)
    plan = planning.plan(np.full(len(ids), "a", object), ids)
    return [len(shard.rows) for shard in plan], [
        tuple(ids[shard.rows]) for shard in plan
    ]


def test_number_of_shards_grows_with_the_rows_up_to_a_limit():
    counts = []
    for number in (1, 10**4, 10**5, 10**6):
        sizes, _ = plan_sizes(range(number))
        assert sum(sizes) == number
        assert min(sizes) > 0
        assert max(sizes) <= 8 * max(1024, 2 * number / 512)
        counts.append(len(sizes))
    assert counts[0] == 1
    # About one shard per 1,024 rows; for the largest table, per 2,048.
    assert 4 <= counts[1] <= 20
    assert 70 <= counts[2] <= 130
    assert 400 <= counts[3] <= 580


def test_other_shards_do_not_change_with_added_and_removed_rows():
    ids = [f"s{i}" for i in range(50_000)]
    _, before = plan_sizes(ids)
    for edited in (ids + ["new"] * 500, ids[:700] + ids[900:], ["x", *ids]):
        _, after = plan_sizes(edited)
        assert len(set(before) - set(after)) <= 2


def test_equal_ids_are_divided_too():
    sizes, _ = plan_sizes(["a"] * 30_000)
    assert max(sizes) <= 8192
    assert sum(sizes) == 30_000
