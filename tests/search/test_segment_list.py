import jax
import numpy as np
import pytest

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search import segment_list
from mixer_jax.search.segment_list import SegmentList


def test_capacity_grows_by_a_fraction():
    held = SegmentList(2, make_mesh(jax.devices()[:2]), 8)
    capacities = []
    for count in (1, 16, 17, 100, 1000, 1120, 1121):
        held.reserve(count)
        capacities.append(held.capacity)
    # Segments are multiples of 16 rows; each adds at least a quarter.
    assert capacities == [16, 16, 32, 112, 1008, 1264, 1264]
    held.reserve(2000)
    assert held.capacity >= 2000


def test_rows_are_written_across_segments():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 2)).astype(np.float32)
    held = SegmentList(2, make_mesh(jax.devices()[:2]), 8)
    for start, stop in ((0, 5), (5, 60)):
        held.add(vectors[start:stop], np.arange(start, stop))
    held.remove(np.array([3, 3, 40]))
    found, first = [], []
    for segment, where in held.filled():
        first.append(where["first"])
        # Blocks are assigned to two devices in turn.
        label, present = (
            np.asarray(x).reshape(2, -1, 8).swapaxes(0, 1).reshape(-1)
            for x in (segment.label, segment.present)
        )
        found.extend(label[present].tolist())
    assert first == [0, 16]
    assert found == [row for row in range(60) if row not in (3, 40)]


def test_masks_are_split_like_rows():
    held = SegmentList(2, make_mesh(jax.devices()[:2]), 8)
    held.reserve(16)
    held.add(np.ones((20, 2)), np.full(20, -1, np.int32))
    allowed = np.arange(20) % 3 == 0
    first, second = held.masks(allowed)
    assert np.asarray(first).tolist() == allowed[:16].tolist()
    assert np.flatnonzero(second).tolist() == [2]
    assert held.masks(None) == [None, None]
    with pytest.raises(ValueError, match=r"\(19,\) .* 20 rows"):
        held.masks(allowed[:19])


def test_rows_of_a_failed_addition_are_counted(monkeypatch):
    monkeypatch.setattr(segment_list, "_ADDED", 8)
    held = segment_list.SegmentList(2, make_mesh(jax.devices()[:2]), 8)
    calls = []

    def fail(rows):
        calls.append(len(rows))
        if len(calls) == 2:
            raise MemoryError
        return rows

    monkeypatch.setattr(segment_list, "normalize", fail)
    with pytest.raises(MemoryError):
        held.add(np.ones((16, 2)), np.full(16, -1, np.int32))
    present = [np.asarray(segment.present) for segment, _ in held.filled()]
    assert held.count == np.concatenate(present).sum() == 8
