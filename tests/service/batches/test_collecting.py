"""Objects that are excluded from garbage collection."""

import gc
import weakref

from mixer_jax.service.batches import collecting


class Node:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self):
        self.itself = self


def test_existing_objects_are_excluded_during_the_block():
    count, node = gc.get_freeze_count(), Node()
    old = weakref.ref(node)
    with collecting.frozen():
        assert gc.get_freeze_count() > count
        del node
        gc.collect()
        assert old() is not None
        new = weakref.ref(Node())
        gc.collect()
        assert new() is None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert old() is None


def test_freezing_again_frees_what_is_no_longer_used():
    node = Node()
    old = weakref.ref(node)
    with collecting.frozen():
        del node
        collecting.freeze()
        assert old() is None
        assert gc.get_freeze_count()
