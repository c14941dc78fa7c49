"""Items and stores for tests."""

import numpy as np

from mixer_jax.service.stores import place
from mixer_jax.service.stores.interface import Item, Vector

DIM = 4
PROPERTIES = {
    "dim": DIM,
    "storage": "f32",
    "fingerprint": "model",
    "thumbnails": 0,
    "fields": {"brand": "text", "price": "number", "new": "flag"},
}


def vector(*numbers, **more):
    """Returns a vector whose content is its embedding."""
    embedding = np.zeros(DIM, np.float32)
    embedding[: len(numbers)] = numbers
    return Vector(embedding.tobytes()[:16], embedding, **more)


def item(id, *vectors, **more):
    """Returns an item; `vectors` are numbers, or tuples of numbers."""
    given = vectors if isinstance(vectors[0], tuple) else (vectors,)
    return Item(id, tuple(vector(*one) for one in given), **more)


def make(path, *items, **properties):
    """Returns a published store: in Milvus Lite if the path ends in .db."""
    if str(path).endswith(".db"):
        properties = {"index_kind": "FLAT"} | properties
    store = place.find(path).draft(PROPERTIES | properties)
    store.upsert(items)
    store.publish()
    return store


def found(store, *query, k=10, **options):
    """Returns the IDs that a search finds."""
    queries = vector(*query).embedding[None]
    (hits,) = store.search(queries, k, **options)
    return [hit.id for hit in hits]
