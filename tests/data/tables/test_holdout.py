import hashlib

from mixer_jax.data.tables import holdout


def test_a_tenth_is_held_out_by_the_hash_of_the_id():
    names = [f"c{i}" for i in range(5000)]
    held_out = [name for name in names if holdout.is_test(name)]
    assert 430 < len(held_out) < 570
    for name in names[:50]:
        expected = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10 == 0
        assert holdout.is_test(name) == expected


def test_the_digest_tells_word_boundaries_apart():
    assert holdout.digest("a", "bc") != holdout.digest("ab", "c")
    assert 0 <= holdout.digest("a") < 2**160
