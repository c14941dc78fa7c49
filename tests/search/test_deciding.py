import numpy as np

from mixer_jax.search import deciding


def test_rising_sorts_integers():
    rng = np.random.default_rng(0)
    numbers = rng.integers(-1, 2**30, size=(50, 33)).astype(np.int32)
    numbers[0, :5] = [0, -1, 2**30 - 1, 0, 1]
    numbers[1] = -1
    rising = np.asarray(deciding._rising(numbers))
    np.testing.assert_array_equal(rising, np.sort(numbers, axis=1))
    assert rising.dtype == np.int32
