import numpy as np

from mixer_jax.data.readers import roles


def draw(samples, queries=(), documents=()):
    """Draws the roles of (category, image) pairs; "" means no image."""
    categories, images = (
        [*dict.fromkeys(one)] for one in zip(*samples, strict=True)
    )
    count = len(samples)
    documents = {
        *documents,
        *(i for i, one in enumerate(samples) if not one[1]),
    }
    query = roles.draw(
        np.array([categories.index(one[0]) for one in samples]),
        np.array([images.index(b) if b else -1 for _, b in samples]),
        np.isin(np.arange(count), list(queries)),
        np.isin(np.arange(count), list(documents)),
        iter(samples),
    )
    return query.tolist()


def test_half_of_each_category_becomes_queries_rounded_down():
    samples = [
        (f"c{size}", f"c{size}/{i}")
        for size in range(1, 8)
        for i in range(size)
    ]
    query = draw(samples)
    for size in range(1, 8):
        mine = [
            q
            for q, one in zip(query, samples, strict=True)
            if one[0] == f"c{size}"
        ]
        assert sum(mine) == size // 2
    # Roles are drawn; the first image is not always a query.
    firsts = {draw([(name, "a"), (name, "b")])[0] for name in "klmnopqrst"}
    assert firsts == {True, False}


def test_role_depends_only_on_category_and_image():
    samples = [(f"c{i // 4}", f"{i}.jpg") for i in range(40)]
    query = dict(zip(samples, draw(samples), strict=True))
    turned = samples[::-1]
    assert dict(zip(turned, draw(turned), strict=True)) == query
    assert draw(samples[8:16]) == [query[one] for one in samples[8:16]]


def test_samples_of_one_image_have_one_role():
    samples = [("c", image) for image in "aabbbccccd"]
    query = draw(samples)
    by_image = {}
    for is_query, (_, image) in zip(query, samples, strict=True):
        by_image.setdefault(image, set()).add(is_query)
    assert sorted(map(len, by_image.values())) == [1, 1, 1, 1]
    assert sum(is_query for (is_query,) in by_image.values()) == 2
    assert draw([("c", "a"), ("c", "a")]) == [False, False]


def test_given_roles_are_kept_and_counted():
    samples = [("c", image) for image in "abcdef"]
    query = draw(samples, queries=[0], documents=[1, 2])
    assert query[:3] == [True, False, False]
    assert sum(query) == 3
    assert sum(draw(samples, documents=range(5))) == 1
    assert draw(samples, queries=range(6)) == [True] * 6
    assert sum(draw(samples, queries=range(5))) == 5


def test_given_roles_of_one_image_may_differ():
    samples = [("c", "a"), ("c", "a"), ("c", "a"), ("c", "b")]
    query = draw(samples, queries=[0], documents=[1])
    assert query == [True, False, False, False]


def test_sample_without_an_image_is_a_document_and_not_counted():
    assert draw([("c", ""), ("c", "a"), ("c", "b")])[0] is False
    assert sum(draw([("c", ""), ("c", "a"), ("c", "b")])) == 1
    assert draw([("c", ""), ("c", "a")]) == [False, False]
