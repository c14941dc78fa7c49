import numpy as np

from mixer_jax.search.answers import Answer


def test_blocks_cover_the_chosen_rows_once():
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    answer = Answer(rows, k=3)
    assert answer.k == 3
    for chosen in (None, np.array([9, 2, 5, 0, 1])):
        seen = []
        for number, these, block in answer.blocks(4, chosen):
            assert number * 4 == len(seen)
            assert block.shape == (4, 2)
            np.testing.assert_array_equal(block[: len(these)], rows[these])
            assert not block[len(these) :].any()
            seen.extend(these.tolist())
        assert seen == (list(range(11)) if chosen is None else chosen.tolist())


def test_results_are_stored_by_row_and_doubts_returned_once():
    answer = Answer(np.zeros((7, 2), np.float32), k=2)
    for number, these, block in answer.blocks(3):
        index = 10 * number + np.arange(6).reshape(3, 2)
        sure = np.array([True, number != 1, True])
        answer.put(these, (index, index / 100, sure[: len(block)]))
    assert answer.in_doubt().tolist() == [4]
    assert answer.index.tolist() == [
        *([0, 1], [2, 3], [4, 5]),
        *([10, 11], [12, 13], [14, 15]),
        [20, 21],
    ]
    np.testing.assert_allclose(answer.cosine, answer.index / 100, rtol=1e-6)
    answer.put(
        np.array([4]), (np.array([[8, 9]]), np.ones((1, 2)), np.array([True]))
    )
    assert answer.in_doubt().tolist() == []
    assert answer.index[4].tolist() == [8, 9]
