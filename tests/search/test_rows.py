"""Searching a mutable set of rows, against float64 NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search import rows as rows_lib
from mixer_jax.search import segment_search
from mixer_jax.search.rows import Rows
from tests import several

DIM = 12


def make(num_devices, dim=DIM, **options):
    """Returns an empty set with small blocks."""
    mesh = make_mesh(jax.devices()[:num_devices])
    return Rows(dim, mesh, block=16, **options)


def lattice(rng, count, dim=DIM):
    """Returns unit rows with many ties; all their f32 products are exact."""
    rows = np.zeros((count, dim), np.float32)
    for row in rows:
        at = rng.choice(dim, 4, replace=False)
        row[at] = rng.choice([-0.5, 0.5], 4)
    return rows


def expected(queries, rows, k, hidden=False):
    """Returns the k nearest rows; ties go to the lower number."""
    queries, rows = (x.astype(np.float64) for x in (queries, rows))
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(
        rows, axis=1
    )
    cosine = queries @ rows.T / np.maximum(lengths, 1e-12)
    cosine = np.where(hidden, -np.inf, cosine)
    cosine = np.pad(cosine, ((0, 0), (0, k)), constant_values=-np.inf)
    number = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    cosine = np.take_along_axis(cosine, number, 1)
    return np.where(np.isneginf(cosine), -1, number), cosine


def check(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6, atol=1e-6)
    assert found[0].dtype == np.int64
    assert found[1].dtype == np.float32


def test_a_growing_set_matches_float64(num_devices):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(700, DIM)).astype(np.float32)
    queries = rng.normal(size=(5, DIM)).astype(np.float32)
    label, own = rng.integers(-1, 9, 700), rng.integers(-1, 9, 5)
    rows = make(num_devices, capacity=150)
    for start, stop in ((0, 1), (1, 10), (10, 700)):
        part = slice(start, stop)
        assert rows.append(vectors[part], labels=label[part]) == start
        assert len(rows) == stop <= rows.capacity
    check(rows.search(queries, 7), expected(queries, vectors, 7))
    removed = rng.choice(700, 200, replace=False)
    rows.remove(removed)
    allowed = rng.random(700) < 0.5
    skip = np.array([600, -1, 3, -1, -1])
    hidden = np.isin(np.arange(700), removed) | ~allowed
    hidden = hidden | ((own[:, None] == label) & (label >= 0))
    hidden |= skip[:, None] == np.arange(700)
    skip[1] = expected(queries, vectors, 1, hidden)[0][1, 0]
    hidden[1, skip[1]] = True
    found = rows.search(queries, 7, allowed=allowed, labels=own, exclude=skip)
    check(found, expected(queries, vectors, 7, hidden))


changes = st.lists(
    st.tuples(st.sampled_from(["append", "remove"]), st.integers(0, 40)),
    max_size=8,
)


@given(changes, st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_changes_match_a_list_of_rows(changes, seed, k):
    rng = np.random.default_rng(seed)
    rows, held = make(2, capacity=320), np.zeros((0, DIM), np.float32)
    gone = np.zeros(0, bool)
    for change, count in changes:
        if change == "append":
            added = lattice(rng, count)
            added[: rng.integers(3)] = 0
            assert rows.append(added) == len(held)
            held = np.concatenate([held, added])
            gone = np.pad(gone, (0, count))
        elif len(held):
            removed = rng.integers(len(held), size=count)
            rows.remove(removed.tolist())
            gone[removed] = True
    assert len(rows) == len(held)
    assert rows.capacity == 320
    queries = lattice(rng, 3)
    allowed = rng.random(len(held)) < 0.8
    found = rows.search(queries, k, allowed=allowed)
    check(found, expected(queries, held, k, (gone | ~allowed)[None]))


def test_results_are_the_same_on_any_number_of_devices():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(600, DIM)).astype(np.float32)
    vectors[1::2] = vectors[::2]  # each row has one duplicate
    queries = rng.normal(size=(9, DIM)).astype(np.float32)
    results = []
    for count in (1, 2, 4, 8):
        rows = make(count, capacity=640)
        rows.append(vectors)
        results.append(rows.search(queries, 10))
        one = rows.search(queries[:1], 10)
        np.testing.assert_array_equal(one[0], results[-1][0][:1])
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])
    assert (results[0][0][:, ::2] + 1 == results[0][0][:, 1::2]).all()


@pytest.fixture
def searches(monkeypatch):
    """Returns the number of groups each search scores; None means all rows."""
    kept = []
    monkeypatch.setattr(rows_lib, "_TIMES", (1, 4))

    def spy(name):
        search = getattr(segment_search, name)

        def call(*given, **options):
            kept.append(options.get("kept"))
            return search(*given, **options)

        monkeypatch.setattr(segment_search, name, call)

    spy("screened")
    spy("scored")
    return kept


def test_thousands_of_equal_rows(num_devices, searches):
    """No bound separates the rows, so all of them are scored."""
    rng = np.random.default_rng(3)
    vectors = np.repeat(lattice(rng, 1), 4300, axis=0)
    vectors[[5, 3800]] = 0
    rows = make(num_devices, capacity=4352)
    rows.append(vectors)
    queries = np.concatenate([vectors[:1], lattice(rng, 2)])
    check(rows.search(queries, 9), expected(queries, vectors, 9))
    assert searches == [64, 256, None]


def test_few_queries_of_many_rows_start_with_more_groups(searches, monkeypatch):
    rng = np.random.default_rng(3)
    vectors = lattice(rng, 4300)
    rows = make(2, capacity=4352)
    rows.append(vectors)
    queries = lattice(rng, 3)
    monkeypatch.setattr(rows_lib, "_LITTLE", 0.5)  # of the rows: 2,150
    for count, first in ((1, 256), (2, 64)):  # 256 groups hold 2,048 rows
        searches.clear()
        found = rows.search(queries[:count], 9)
        check(found, expected(queries[:count], vectors, 9))
        assert searches[0] == first


def test_rows_within_the_rounding_error(searches):
    """The bounds leave more candidates than the first pass scores."""
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(3000, DIM)).astype(np.float32)
    vectors[::20] = vectors[0] + 1e-3 * vectors[::20]
    rows = make(1, capacity=3072)
    rows.append(vectors)
    queries = vectors[1:13] * 0.1 + vectors[:1]
    number, cosine = rows.search(queries, 5)
    # Rows whose cosines are equal in f32 may swap.
    _, wanted = expected(queries, vectors, 5)
    np.testing.assert_allclose(cosine, wanted, atol=3e-7, rtol=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    exact = np.einsum("qkd,qd->qk", unit[number], queries / lengths)
    np.testing.assert_allclose(exact, wanted, atol=3e-7, rtol=0)
    assert searches == [64, 256]


def test_fewer_rows_than_k(num_devices):
    rows = make(num_devices)
    query = np.eye(DIM, dtype=np.float32)[:2]
    nothing = expected(query, np.zeros((0, DIM)), 4)
    check(rows.search(query, 4), nothing)
    rows.append(np.eye(DIM, dtype=np.float32)[:3])
    found = rows.search(query, 1000)
    assert found[0].shape == found[1].shape == (2, 1000)
    assert found[0][:, :4].tolist() == [[0, 1, 2, -1], [1, 0, 2, -1]]
    assert np.isneginf(found[1][:, 3:]).all()
    rows.remove([0, 1, 2])
    check(rows.search(query, 4), nothing)
    assert rows.search(query[:0], 4)[0].shape == (0, 4)


def test_nothing_recompiles_or_moves_between_growths(caplog):
    rng = np.random.default_rng(5)
    rows = make(2, capacity=320)

    def use(count):
        first = rows.append(lattice(rng, count))
        rows.remove([first])
        for asked in (1, 8):
            queries = lattice(rng, asked)
            rows.search(queries, 5, allowed=np.ones(len(rows), bool))

    use(9)
    use(2)
    with jax.log_compiles():
        for count in (1, 17, 30):
            use(count)
    assert "Compiling" not in caplog.text
    rows = make(1)
    with jax.log_compiles():
        rows.append(lattice(rng, 1))
    assert "Compiling" in caplog.text


def test_wrong_arguments_raise_an_error():
    rows = make(1)
    broken = np.ones((4, DIM), np.float32)
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 vectors .* row 2"):
        rows.append(broken)
    with pytest.raises(ValueError, match=r"\(4, 3\).* 12 columns"):
        rows.append(broken[:, :3])
    with pytest.raises(ValueError, match=r"`labels` .*\(3,\).* 2 rows"):
        rows.append(broken[:2], labels=np.zeros(3, int))
    rows.append(broken[:2])
    query = broken[:1]
    for k in (0, 1001):
        with pytest.raises(ValueError, match=f"k is {k}"):
            rows.search(query, k)
    with pytest.raises(ValueError, match=r"row 2"):
        rows.search(broken, 1)
    with pytest.raises(ValueError, match=r"`allowed` .*int64.* 2 rows"):
        rows.search(query, 1, allowed=np.ones(2, int))
    with pytest.raises(ValueError, match=r"`exclude` .* 1 rows"):
        rows.search(query, 1, exclude=np.zeros(2, int))
    with pytest.raises(IndexError, match=r"Row 2 .* 2 rows"):
        rows.remove([0, 2])
    assert rows.search(query, 2)[0].tolist() == [[0, 1]]


@pytest.mark.slow
def test_results_are_the_same_in_several_processes(compiled):
    script = str(several.ROOT / "tests/search/rows_worker.py")
    printed = []
    for count in (1, 2, 4):
        begun = several.begin([script], count, 4 // count, compiled, True)
        ended = several.finish(begun)
        assert [one.code for one in ended] == [0] * count, ended
        for one in ended:
            lines = one.output.splitlines()
            printed.append([line for line in lines if line.startswith("(")])
    assert len(printed[0]) == 7
    assert all(lines == printed[0] for lines in printed)
