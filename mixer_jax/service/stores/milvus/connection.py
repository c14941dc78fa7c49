"""A connection to Milvus, with error messages for users."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores.interface import StoreError
from mixer_jax.service.stores.milvus import lite
from mixer_jax.service.stores.milvus.address import TOKEN, Address

_TIMEOUT = 60.0  # seconds per call, including pymilvus's retries
_CONNECT = 10.0  # seconds
_DENIED = ("unauthenticated", "auth check", "permission", "password")
_NOT_OPENED = "open local milvus failed"
_AWAY = ("connecting", "unavailable", "timeout", "deadline", "retry")


class Connection:
    """Calls pymilvus's client; all methods are thread-safe.

    pymilvus repeats calls that fail for a transient reason, such as a restart
    of the server or a rate limit, until a time limit.

    Attributes:
      address: where Milvus is.
    """

    def __init__(self, address: Address):
        """Connects.

        Raises:
          UserError: if pymilvus is not installed, or the server cannot be
            reached or rejects the token.
        """
        self.address = address
        if address.is_lite:
            # gRPC's core reports the keepalive pings between the client and
            # Lite's server as "too_many_pings". It reads this once.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        client = _import_client()
        self._lite = lite.opened(address.uri) if address.is_lite else None
        self._is_closed = False
        try:
            if self._lite is not None:
                lite.check_folder(address.uri)
                files.make_folder(address.folder.parent)
            with self.turn(), self._explained():
                self._client = client(
                    uri=address.uri, token=address.token, timeout=_CONNECT
                )
        except BaseException:
            self._leave()
            raise

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps other calls to Milvus Lite from running during a block."""
        with self._lite.turn if self._lite else contextlib.nullcontext():
            if self._is_closed:
                raise UserError(f"The index {self.address.name} was closed.")
            yield

    def call(
        self,
        method: str,
        *given: Any,
        timeout: float | None = _TIMEOUT,
        **options: Any,
    ) -> Any:
        """Calls a method of `pymilvus.MilvusClient`.

        Args:
          method: the name of the method.
          *given: its arguments.
          timeout: the time limit in seconds; None for none.
          **options: its keyword arguments.

        Raises:
          UserError: if it fails.
        """
        with self.turn(), self._explained():
            run = getattr(self._client, method)
            return run(*given, timeout=timeout, **options)

    def scan(self, collection: str, **options: Any) -> Iterator[list[dict]]:
        """Yields all rows of a collection in the order of their keys.

        Args:
          collection: the name of the collection.
          **options: options of `MilvusClient.query_iterator`.
        """
        pages = self.call("query_iterator", collection, **options)
        while True:
            with self.turn(), self._explained():
                page = pages.next()
            if not page:
                break
            yield page
        pages.close()

    def load(self, collection: str) -> None:
        """Makes a collection ready for searches, which may take a while."""
        try:
            self.call("load_collection", collection, timeout=None)
        except UserError:
            if self._lite is None:
                raise
            lite.remove_index_files(self.address.uri, collection)
            self.call("load_collection", collection, timeout=None)

    def close(self) -> None:
        """Disconnects."""
        if self._is_closed:
            return
        with self.turn():
            self._is_closed = True
        self._client.close()
        self._leave()

    def _leave(self) -> None:
        if self._lite is not None:
            self._lite.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            raise explain(_message(error), self.address) from error


def _message(error: BaseException) -> str:
    """Returns the message of an error of Milvus or gRPC."""
    import grpc

    # pymilvus hides the reason why it cannot connect.
    cause = getattr(error, "__cause__", None)
    for one in (error, cause, getattr(error, "__context__", None)):
        if isinstance(one, grpc.RpcError):
            return f"{one.code().name}: {one.details()}"
    return error.message


def _import_client() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise UserError(
            f"An index in Milvus needs the package {error.name}, which is not "
            "installed; run `pip install 'mixer_jax[milvus]'`."
        ) from error
    # These log every error with a traceback, even one that is handled.
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus.MilvusClient


def explain(message: str, address: Address) -> StoreError | PassingError:
    """Returns an error for a message of Milvus, as one sentence."""
    line = " ".join(message.split())[:300].rstrip(".")
    text = line.lower()
    if address.is_lite:
        if _NOT_OPENED in text and lite.is_locked(address.uri):
            return PassingError(
                f"The index {address.name} is in use by another process, and "
                "Milvus Lite allows only one; stop it, or use a server."
            )
        return StoreError(f"Milvus Lite failed at {address.name}: {line}.")
    if any(word in text for word in _DENIED):
        return StoreError(
            f"The Milvus server {address.name} denies access ({line}); set the "
            f"environment variable {TOKEN} to USER:PASSWORD or an API key."
        )
    if any(word in text for word in _AWAY):
        return PassingError(
            f"The Milvus server {address.name} does not answer ({line}); check "
            "the address, or try again later."
        )
    return StoreError(f"The Milvus server {address.name} failed: {line}.")
