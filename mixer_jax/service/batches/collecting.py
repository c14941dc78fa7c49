"""Keeps pauses for garbage collection short while requests are answered.

A full collection visits all objects of the process, most of them those of
imported modules and compiled programs. It takes some 0.3 s, in which no thread
runs. Objects that stay are therefore excluded from collection.
"""

import contextlib
import gc
from collections.abc import Iterator


def freeze() -> None:
    """Collects all garbage, then excludes what is left from collection.

    Call it again when large objects have been replaced, to free the old ones.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Excludes the existing objects from collection during a block."""
    freeze()
    try:
        yield
    finally:
        gc.unfreeze()
