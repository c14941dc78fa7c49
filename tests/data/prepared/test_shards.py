import numpy as np
import pytest

from mixer_jax.data.prepared import records, shards


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_shards_have_every_row_of_their_split_once(number):
    splits = np.array(list("abbabbb"), object)
    plan = shards.plan(splits, number)
    for split in "ab":
        own = [shard for shard in plan if shard.split == split]
        rows = np.concatenate([shard.rows for shard in own])
        np.testing.assert_array_equal(rows, np.flatnonzero(splits == split))
        assert len(own) == max(1, min(number, len(rows)))
        assert own[0].name == (
            f"sample_table-{split}.array_record-00000-of-{len(own):05}"
        )


def test_number_of_shards_grows_with_the_rows_up_to_a_limit():
    sizes = [1, 1024, 1025, 10**5, 10**6]
    counts = [len(shards.plan(np.full(n, "a", object))) for n in sizes]
    assert counts == [1, 1, 2, 98, 512]


@pytest.mark.parametrize(
    ("known", "same"),
    [
        ([0, 1, 2], None),  # only a part of the first file
        ([0, 1, 2, 3], "first"),
        ([4, 5], "second"),
        ([5, 4], None),
        ([3, 4], None),
        ([4, -1], None),
        ([-1, -1], None),
    ],
)
def test_a_whole_file_is_recognized(known, same):
    sizes = {"first": 4, "empty": 0, "second": 2}
    parts = tuple(records.Part(name, size) for name, size in sizes.items())
    digests = np.zeros((len(known), 16), np.uint8)
    earlier = shards.Earlier(parts, np.array(known), digests)
    part = earlier.same_part()
    assert (part and part.filename) == same
