"""The open index, which is replaced when the index is rebuilt.

A generation is an open index with its compiled encoder. Each request uses one
generation throughout; an old generation is closed after its last request.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np

from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening
from mixer_jax.service.batches.encoder import SIZE, Encoder
from mixer_jax.service.items import Index
from mixer_jax.service.stores import generations
from mixer_jax.service.stores.local import LocalStore

MAX_K = 1000  # maximum number of items that a client can request

# Opens the index; may reuse the given model if the index was built with it.
Open = Callable[[Model | None], Index]


def opener(
    folder: str | os.PathLike,
    *,
    workdir: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> Open:
    """Returns a function that opens an index and loads its model.

    The model is loaded from `workdir`, or from the recorded path if the index
    was rebuilt with another model; see `opening.open_with`.
    """

    def open_(model: Model | None) -> Index:
        if model is not None:
            # Raises if this is not the model that the index was built with.
            with contextlib.suppress(UserError):
                return opening.open_with(folder, model, images=images)
        try:
            return _open(folder, workdir, images)
        except UserError:
            if workdir is None:
                raise
            with contextlib.suppress(UserError):
                return _open(folder, None, images)
            raise

    return open_


def _open(
    folder: str | os.PathLike,
    workdir: str | os.PathLike | None,
    images: str | os.PathLike | None,
) -> Index:
    index = opening.open_with(folder, workdir=workdir, images=images)
    try:
        _ = index.model  # Raises if the model does not match.
    except BaseException:
        index.close()
        raise
    return index


class Generation:
    """An open index, with its encoder.

    Attributes:
      index: the index.
      encoder: embeds its queries.
    """

    def __init__(self, index: Index, max_pixels: int):
        """Compiles the encoder and loads the vectors."""
        self.index = index
        self.encoder = Encoder(index.model, max_pixels)
        self.encoder.compile()
        self._compile_search()
        self._users, self._is_retired = 0, False
        self._lock = threading.Lock()

    def _compile_search(self) -> None:
        """Loads the vectors, and compiles the usual searches."""
        store = self.index.store
        for size, k in ((1, 1), (SIZE, 1), (1, MAX_K)):
            store.search(np.ones((size, store.dim), np.float32), k)

    @contextlib.contextmanager
    def used(self) -> Iterator["Generation"]:
        """Keeps the index open during a block."""
        with self._lock:
            if self._is_retired and not self._users:
                raise ClosedError("The index is closed.")
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                ended = self._is_retired and not self._users
            if ended:
                self.index.close()

    def retire(self) -> None:
        """Closes the index once nothing uses it."""
        with self._lock:
            self._is_retired = True
            ended = not self._users
        if ended:
            self.index.close()

    def is_stale(self) -> bool:
        """Returns whether the index has been rebuilt since it was opened."""
        store = self.index.store
        if not isinstance(store, LocalStore):
            return False
        return generations.read(store.path.parent) != store.path


class ClosedError(RuntimeError):
    """Raised if a generation was closed before it was used."""


class Generations:
    """The current generation of an index."""

    def __init__(self, open_: Open, max_pixels: int):
        """Opens the index.

        Args:
          open_: opens the index; may reuse the given model.
          max_pixels: the maximum number of pixels of a decoded picture.
        """
        self._open, self._max_pixels = open_, max_pixels
        self._switching, self._lock = threading.Lock(), threading.Lock()
        self.count, self._is_closed = 1, False
        index = open_(None)
        try:
            self.current = Generation(index, max_pixels)
        except BaseException:
            index.close()
            raise

    @contextlib.contextmanager
    def use(self) -> Iterator[Generation]:
        """Yields the current generation, which stays open during the block.

        Raises:
          ClosedError: after `close`.
        """
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    used = stack.enter_context(self.current.used())
                    break
                except ClosedError:  # `refresh` has just replaced it.
                    if self._is_closed:
                        raise
            yield used

    def refresh(self) -> bool:
        """Switches to a newer generation; returns whether there was one.

        Requests use the previous one until the new one is ready.

        Raises:
          UserError: if the new one cannot be opened; the previous one is kept.
        """
        with self._switching:
            old = self.current
            if self._is_closed or not old.is_stale():
                return False
            index = self._open(old.encoder.model)
            try:
                new = Generation(index, self._max_pixels)
            except BaseException:
                index.close()
                raise
            if not self._replace(new):
                new.retire()
                return False
        old.retire()
        return True

    def _replace(self, new: Generation) -> bool:
        """Makes a generation the current one, unless `close` was called."""
        with self._lock:
            if not self._is_closed:
                self.current = new
                self.count += 1
            return not self._is_closed

    def close(self) -> None:
        """Closes the index once its last request has finished."""
        with self._lock:
            self._is_closed = True
        self.current.retire()

    def __enter__(self) -> "Generations":
        """Returns self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the index."""
        self.close()
