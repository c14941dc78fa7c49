import jax
import numpy as np

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search import segments


def test_pieces_are_aligned_powers_of_eight():
    sizes, start = [], 6
    while start < 150:
        sizes.append(segments._piece(start, 150 - start, 64))
        start += sizes[-1]
    assert sizes == [1, 1, *[8] * 7, 64, *[8] * 2, *[1] * 6]
    assert segments._piece(0, 500, 128) == 64  # pieces do not cross blocks


def test_changes_reuse_memory():
    mesh = make_mesh(jax.devices()[:2])
    empty = segments.allocate(32, 4, 8, mesh)
    vectors = np.eye(4, dtype=np.float32)
    added = segments.add(empty, 0, vectors, np.arange(4, dtype=np.int32))
    assert empty.whole.is_deleted()
    assert empty.short.is_deleted()
    np.testing.assert_array_equal(added.whole[:4], vectors)
    assert (np.abs(added.short[:4]).max(axis=1) == 127).all()
    whole = added.whole
    removed = segments.remove(added, np.array([1, 1]))
    assert removed.whole is whole
    assert np.flatnonzero(removed.present).tolist() == [0, 2, 3]
