import numpy as np
import pytest

from mixer_jax.search.queries import Queries, check_integers, check_vectors


def test_blocks_have_few_sizes():
    rows = np.arange(700, dtype=np.float32)[:, None]
    labels = np.arange(700)
    seen = []
    sizes = []
    for these, asked, relevant in Queries(rows, labels).blocks(
        np.arange(3, 612)
    ):
        sizes.append(len(asked.row))
        assert asked.row[: len(these), 0].tolist() == these.tolist()
        assert asked.label[: len(these)].tolist() == these.tolist()
        assert asked.skip is relevant is None
        seen.extend(these.tolist())
    assert seen == list(range(3, 612))
    assert sizes == [256, 256, 256]
    (only,) = Queries(rows, relevant=labels[:, None]).blocks(np.array([5]))
    assert only[1].row.shape == only[2].shape == (1, 1)


def test_wrong_arguments_raise_an_error():
    with pytest.raises(ValueError, match=r"The rows .*\(3,\).* 3 columns"):
        check_vectors(np.ones(3), 3, "rows")
    broken = np.ones((4, 2))
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 rows .* row 2"):
        check_vectors(broken, 2, "rows")
    with pytest.raises(ValueError, match=r"float64; .* each of the 4 rows"):
        check_integers(np.ones(4), 4, "labels")
    assert check_integers(None, 4, "labels") is None


@pytest.mark.parametrize(
    "vectors", [np.array([[1e39, 0.0]]), np.full((1, 2), 3e38, np.float32)]
)
def test_vectors_that_are_too_long_are_refused(vectors):
    with pytest.raises(ValueError, match="1 of 1 rows are not finite"):
        check_vectors(vectors, 2, "rows")


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_of_more_than_32_bits_are_refused(value):
    with pytest.raises(ValueError, match="must be from -2147483648"):
        check_integers(np.array([0, value]), 2, "labels")
