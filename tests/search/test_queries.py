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
