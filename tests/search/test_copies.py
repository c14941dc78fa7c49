import numpy as np

from mixer_jax.search.copies import Copies


def test_equal_rows_form_a_set():
    rows = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [1, 2]], "f4")
    copies = Copies(rows)
    assert copies.code.tolist() == [0, 1, 0, 2, 1, 0]
    assert copies.first.tolist() == [0, 1, 3]


def test_expand_returns_rows_of_the_sets():
    copies = Copies(np.array([[1], [2], [1], [3], [2], [1]], "f4"))
    near = np.array([[1, 0, 2]])
    score = np.array([[0.9, 0.9, 0.1]], "f4")
    index, cosine = copies.expand(near, score, 6, None)
    # Ties go to the lower row, across sets.
    assert index.tolist() == [[0, 1, 2, 4, 5, 3]]
    np.testing.assert_allclose(cosine, [[0.9] * 5 + [0.1]])
    index, _ = copies.expand(near, score, 2, np.array([1]))
    assert index.tolist() == [[0, 2]]
