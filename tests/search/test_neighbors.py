import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search import deciding, neighbors, screening
from mixer_jax.search.neighbors import (
    cosine_top_k,
    mutual_top_k,
)


def _mesh(num_devices):
    return make_mesh(jax.devices()[:num_devices])


def _brute_force(rows, gallery, k, same=False):
    """Returns exact neighbors in f64; ties go to the lower index."""
    score = rows.astype(np.float64) @ gallery.T.astype(np.float64)
    if same:
        np.fill_diagonal(score, -np.inf)
    index = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(score, index, 1)


def _random(count, width, seed=0):
    rng = np.random.default_rng(seed)
    return normalize(rng.normal(size=(count, width)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("same", [True, False])
def test_matches_brute_force(num_devices, same, dtype, monkeypatch):
    monkeypatch.setattr(
        neighbors.short_factors, "fast_dtype", lambda: jnp.dtype(dtype)
    )
    rows = _random(257, 24)
    gallery = rows if same else _random(1003, 24, seed=1)
    index, cosine = cosine_top_k(
        rows, gallery, 6, same=same, mesh=_mesh(num_devices)
    )
    wanted, score = _brute_force(rows, gallery, 6, same)
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(cosine, score, rtol=1e-5, atol=1e-6)
    assert index.dtype == np.int64
    assert cosine.dtype == np.float32


@pytest.fixture
def small_blocks(monkeypatch):
    """Shrinks the blocks so that small inputs span many of them."""
    monkeypatch.setattr(screening, "_BLOCK", 128)
    monkeypatch.setattr(screening, "_TILE", 32)
    monkeypatch.setitem(deciding._SCORED, "cpu", 2**13)


def test_a_gallery_of_many_blocks_matches_brute_force(
    num_devices, small_blocks
):
    rows, gallery = _random(150, 8), _random(3100, 8, seed=1)
    mesh = _mesh(num_devices)
    index, _ = cosine_top_k(rows, gallery, 5, mesh=mesh)
    np.testing.assert_array_equal(index, _brute_force(rows, gallery, 5)[0])


def test_a_set_of_many_blocks_matches_brute_force(num_devices, small_blocks):
    """Each pair of blocks is multiplied once and updates both."""
    rows = _random(2100, 8)
    index, cosine = cosine_top_k(
        rows, rows, 5, same=True, mesh=_mesh(num_devices)
    )
    wanted, score = _brute_force(rows, rows, 5, same=True)
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(cosine, score, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "dtype"), [((150, 2100), "bfloat16"), ((400, 3), "float32")]
)
def test_both_directions_match_brute_force(
    num_devices, small_blocks, sizes, dtype, monkeypatch
):
    monkeypatch.setattr(
        neighbors.short_factors, "fast_dtype", lambda: jnp.dtype(dtype)
    )
    rows, gallery = (_random(size, 8, seed=size) for size in sizes)
    both = mutual_top_k(rows, gallery, 6, mesh=_mesh(num_devices))
    for found, (asked, among) in zip(
        both, [(rows, gallery), (gallery, rows)], strict=True
    ):
        wanted, score = _brute_force(asked, among, 6)
        np.testing.assert_array_equal(found[0], wanted)
        np.testing.assert_allclose(found[1], score, rtol=1e-5, atol=1e-6)


def test_both_directions_with_copies_or_an_empty_gallery():
    rows = _random(30, 5)[np.random.default_rng(1).integers(12, size=30)]
    gallery = np.concatenate([rows[:4], _random(9, 5, seed=2), rows[:4]])
    forth, back = mutual_top_k(rows, gallery, 4)
    for found, (asked, among) in (
        (forth, (rows, gallery)),
        (back, (gallery, rows)),
    ):
        wanted = cosine_top_k(asked, among, 4)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])
    forth, back = mutual_top_k(rows, rows, 4)
    np.testing.assert_array_equal(forth[0], back[0])
    np.testing.assert_array_equal(forth[0], cosine_top_k(rows, rows, 4)[0])
    forth, back = mutual_top_k(rows, gallery[:0], 4)
    assert forth[0].shape == (30, 0)
    assert back[0].shape == (0, 4)


def _tied(rng):
    """Returns a row and a gallery whose rows all have the same cosine."""
    width = 64
    corner = np.eye(width, dtype=np.float32)
    signs = rng.choice([-1.0, 1.0], size=(600, width)).astype(np.float32)
    signs[:, 0] = 1.0
    return corner[:1], signs / np.float32(8.0)


def test_ties_go_to_the_lower_index_on_any_number_of_devices(num_devices):
    row, gallery = _tied(np.random.default_rng(0))
    # All cosines are 1 / 8; the kept groups hold only a few of the rows.
    index, cosine = cosine_top_k(row, gallery, 9, mesh=_mesh(num_devices))
    assert index.tolist() == [list(range(9))]
    assert (cosine == 0.125).all()


@pytest.mark.parametrize(("size", "width"), [(40, 20), (80, 32), (300, 64)])
def test_results_are_bitwise_equal_on_any_number_of_devices(size, width):
    rows = _random(size, width)
    wanted = cosine_top_k(rows, rows, 7, same=True, mesh=_mesh(1))
    for count in (2, 4, 8):
        found = cosine_top_k(rows, rows, 7, same=True, mesh=_mesh(count))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_copies_are_neighbors_of_each_other():
    rows = _random(30, 5)[np.random.default_rng(1).integers(12, size=30)]
    index, cosine = cosine_top_k(rows, rows, 4, same=True)
    _, score = _brute_force(rows, rows, 4, same=True)
    np.testing.assert_allclose(cosine, score, rtol=1e-5, atol=1e-6)
    for row, near in enumerate(index):
        copies = np.flatnonzero((rows == rows[row]).all(1))
        copies = copies[copies != row][:4]
        assert near[: len(copies)].tolist() == copies.tolist()
    assert (index != np.arange(30)[:, None]).all()


def test_a_gallery_smaller_than_k():
    rows = normalize(np.eye(3))
    assert cosine_top_k(rows, rows[:2], 5)[0].shape == (3, 2)
    assert cosine_top_k(rows, rows, 5, same=True)[0].shape == (3, 2)
    alone = cosine_top_k(rows[:1], rows[:1], 5, same=True)
    assert alone[0].shape == (1, 0)
    assert cosine_top_k(rows[:0], rows, 2)[0].shape == (0, 2)


def test_rows_of_zeros_tie_with_all_rows():
    rows = np.concatenate([np.zeros((2, 4), np.float32), _random(40, 4)])
    index, cosine = cosine_top_k(rows, rows, 3)
    assert index[:2].tolist() == [[0, 1, 2]] * 2
    assert not cosine[:2].any()
    np.testing.assert_array_equal(index[2:], _brute_force(rows, rows, 3)[0][2:])


def _low_rank(count, width, rank, rest, seed=0):
    """Returns rows close to rank `rank`; `rest` scales the other dimensions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    scale = np.where(np.arange(width) < rank, 1.0, rest)
    return normalize(rng.normal(size=(count, width)) * scale @ basis)


def test_screening_uses_only_the_principal_dimensions():
    rows = _low_rank(300, 256, 20, 1e-3)
    gallery = rows[::-1].copy()
    assert neighbors.short_factors.principal(rows, gallery).shape == (
        256,
        127,
    )
    index, _ = cosine_top_k(rows, gallery, 5, mesh=_mesh(2))
    np.testing.assert_array_equal(index, _brute_force(rows, gallery, 5)[0])


def test_rows_in_doubt_are_searched_again(monkeypatch):
    """Neighbors that differ by less than rounding errors are still exact."""
    monkeypatch.setattr(
        neighbors.short_factors, "fast_dtype", lambda: jnp.dtype("bfloat16")
    )
    searches = []
    one_way = neighbors._one_way

    def spy(placed, answer, left, kept):
        searches.append((placed.short.dtype.name, len(left)))
        one_way(placed, answer, left, kept)

    monkeypatch.setattr(neighbors, "_one_way", spy)
    rng = np.random.default_rng(0)
    center = _random(1, 32)
    crowd = normalize(center + 3e-4 * rng.normal(size=(900, 32)))
    rows = np.concatenate([_random(20, 32, seed=1), crowd[:4]])
    gallery = np.concatenate([crowd, _random(2000, 32, seed=2)])
    # Use one device: with eight, all groups of a device would be scored.
    index, _ = cosine_top_k(rows, gallery, 5, mesh=_mesh(1))
    # Neighbors whose cosines are equal in f32 may swap.
    exact = rows.astype(np.float64) @ gallery.T.astype(np.float64)
    found = np.take_along_axis(exact, index, 1)
    wanted = -np.sort(-exact, axis=1)[:, :5]
    np.testing.assert_allclose(found, wanted, atol=3e-7, rtol=0)
    assert searches[0] == ("bfloat16", 24)
    assert 4 <= searches[1][1] < 24
    assert {dtype for dtype, _ in searches[1:]} == {"float32"}
    assert len(searches) > 2


def test_invalid_rows_raise_an_error():
    rows = _random(4, 6)
    broken = rows.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="Row 2 of the gallery"):
        cosine_top_k(rows, broken, 2)
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\)"):
        cosine_top_k(rows, rows[:, :5], 2)
