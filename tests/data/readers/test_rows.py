import hashlib

from mixer_jax.data.readers import rows


def test_sha1_holds_out_a_tenth_of_the_categories():
    names = [f"category {i}" for i in range(2000)]
    test = [name for name in names if rows.is_test(name)]
    assert 160 < len(test) < 240
    for name in names[:50]:
        digest = hashlib.sha1(name.encode()).hexdigest()
        assert rows.is_test(name) == (int(digest, 16) % 10 == 0)
