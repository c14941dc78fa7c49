import numpy as np
import pytest

from mixer_jax.data.prepared import records, tasks


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
    earlier = tasks.Earlier(parts, np.array(known), digests)
    part = earlier.same_part()
    assert (part and part.filename) == same
