import numpy as np

from mixer_jax.runtime.vectors import normalize


def test_rows_have_unit_length_in_float32():
    rows = np.random.default_rng(0).normal(size=(5, 3)) * 1e4
    unit = normalize(rows)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.cross(unit, rows), 0, atol=2e-3)


def test_a_row_of_zeros_stays_zero():
    np.testing.assert_array_equal(normalize(np.zeros((2, 3))), 0)


def test_short_rows_stay_shorter_than_one():
    short = normalize(np.array([[3e-7, 4e-7]]), shortest=1e-6)
    np.testing.assert_allclose(short, [[0.3, 0.4]], rtol=1e-6)


def test_no_rows_give_no_rows():
    assert normalize(np.zeros((0, 4))).shape == (0, 4)
