"""Explains items: where the model looks in a picture, and at which words.

A separate thread compiles and runs the program, so that searches do not wait.
"""

from concurrent.futures import Future
from typing import NamedTuple

from mixer_jax.models import explanations
from mixer_jax.models.explanations import Explanation
from mixer_jax.service import entries
from mixer_jax.service.batches.batching import Batcher
from mixer_jax.service.items import Index
from mixer_jax.service.stores.interface import Item, Vector

NOT_STORED = "an index with thumbnails stores the pictures that it is sent"
WAITING = 8  # maximum number of items waiting


class Explained(NamedTuple):
    """An explanation of an item.

    Attributes:
      explanation: the contributions to the embedding.
      cosine: the cosine of this embedding and the stored one; below 1 if the
        picture or the text has changed since, or if the index does not store
        the picture.
    """

    explanation: Explanation
    cosine: float


class _Job(NamedTuple):
    index: Index
    item: Item
    vector: Vector


class Explanations:
    """Explains items one by one, in a thread."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._batcher: Batcher[_Job, Explained] = Batcher(
            [lambda jobs: [_explain(job) for job in jobs]], 1, WAITING
        )

    def submit(
        self, index: Index, item: Item, vector: Vector
    ) -> "Future[Explained]":
        """Queues an item; the future may raise a `UserError`.

        Args:
          index: the index, which the caller keeps open.
          item: one of its items.
          vector: the item's vector to explain.

        Raises:
          FullError: if too many items are waiting.
        """
        return self._batcher.submit(_Job(index, item, vector))

    def close(self) -> None:
        """Finishes the submitted items and ends the thread."""
        self._batcher.close()


def _explain(job: _Job) -> Explained:
    picture = job.index.find_picture(job.vector.image, job.vector.thumbnail)
    text = job.item.text
    found = job.index.model.explain(picture, text)
    is_text = entries.is_text(job.vector.content, text)
    if found.reason == explanations.NO_PICTURE and not is_text:
        found = found._replace(reason=f"no picture is stored; {NOT_STORED}")
    return Explained(found, float(found.embedding @ job.vector.embedding))
