"""Items as rows."""

import numpy as np
import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores.interface import Item
from mixer_jax.service.stores.milvus import rows, schema
from tests.service.stores.items import item, vector

WHOLE = Item(
    'x"\n',
    (vector(1, image="a.png", thumbnail=b"\0\xff"), vector(0, 1)),
    "text",
    "group",
    "category",
    {"brand": "acme", "price": 2**62, "new": True},
)


def test_an_item_is_the_same_after_a_round_trip():
    made = rows.make(WHOLE, 5)
    assert [row["key"] for row in made] == [rows.key('x"\n', p) for p in (0, 1)]
    assert set(made[0]) == set(schema.COLUMNS)
    for given in (made, made[::-1]):
        back = rows.item_of(given)
        assert str(back) == str(WHOLE)
    hits = [rows.hit(row, 0.5) for row in made]
    assert [(hit.number, hit.image) for hit in hits] == [(0, "a.png"), (-1, "")]
    np.testing.assert_array_equal(rows.matrix(made), np.eye(2, 4))


def test_rows_of_other_writes_are_not_a_part_of_an_item():
    new, old = rows.make(WHOLE, 5), rows.make(WHOLE, 6)
    assert rows.item_of([]) is None
    assert rows.item_of(new[1:]) is None
    assert rows.item_of(new[:1]) is None
    assert rows.item_of([new[0], old[1]]) is None
    one = rows.make(item("x", 1), 7)
    assert len(rows.item_of([*one, old[1]]).vectors) == 1


def test_keys_differ():
    ids = ["a", "a-000001", "b", "\ud800", ""]
    keys = {rows.key(id, place) for id in ids for place in (0, 1, 10**6)}
    assert len(keys) == 15
    assert max(map(len, keys)) <= 64


def test_stored_vectors_are_kept():
    assert rows.are_equal(rows.merge(WHOLE, WHOLE), WHOLE)
    bare = [
        one._replace(embedding=None, thumbnail=b"") for one in WHOLE.vectors
    ]
    kept = rows.merge(WHOLE._replace(vectors=tuple(bare)), WHOLE)
    assert rows.are_equal(kept, WHOLE)
    moved = [one._replace(image="b.png", thumbnail=b"new") for one in bare]
    changed = rows.merge(WHOLE._replace(vectors=tuple(moved)), WHOLE)
    assert not rows.are_equal(changed, WHOLE)
    assert changed.vectors[0].thumbnail == b"new"
    assert changed.vectors[0].embedding is WHOLE.vectors[0].embedding
    with pytest.raises(PassingError, match="changed by another process"):
        rows.merge(WHOLE._replace(vectors=tuple(bare)), None)
    assert not rows.are_equal(WHOLE, None)
    renamed = rows.merge(WHOLE._replace(text="other"), WHOLE)
    assert not rows.are_equal(renamed, WHOLE)


def test_new_embeddings_have_unit_length():
    (new,) = rows.merge(item("a", 3, 4), None).vectors
    np.testing.assert_allclose(new.embedding, [0.6, 0.8, 0, 0], rtol=1e-6)


def test_long_texts_are_rejected():
    long = "é" * 33_000
    with pytest.raises(UserError, match=r"The text of item 'x' is too long"):
        rows.make(item("x", 1, text=long), 1)
    large = Item("x", (vector(1, thumbnail=b"x" * 60_000),))
    with pytest.raises(UserError, match="make thumbnails smaller"):
        rows.make(large, 1)
