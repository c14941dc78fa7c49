"""Serves an index over HTTP: a search page and a JSON API.

GET  /             the page
POST /search?k=12  the k documents nearest to an image, sent as the body or as a
                   file in a form
GET  /image/ROW    a document's picture
GET  /health       number of documents, workdir and step of the model

All URLs in responses are relative, so that a proxy can add a prefix.
"""

import errno
import functools
import logging
import re
import socket
import threading
import time
from importlib import resources
from typing import Any

import anyio
import jax
import jinja2
import numpy as np
import uvicorn
from jax.sharding import Mesh
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mixer_jax.data.images import decoding, faults
from mixer_jax.retrieval import search
from mixer_jax.retrieval.index import Index
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http import (
    connections,
    middleware,
    pictures,
    uploads,
)
from mixer_jax.training.checkpoint.checkpoints import Trained

MAX_K, DEFAULT_K = 100, 12
MAX_MEGAPIXELS = 50.0
MEGABYTE = uploads.MEGABYTE
# Formats that browsers show. Some other decoders start external programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
_SUPPORTED = "a PNG, JPEG, WebP, GIF, BMP or AVIF file is required"
# Replacements for the router's messages.
_UNROUTED = {
    "Not Found": "There is nothing at this URL; POST a picture to search. "
    "A proxy must strip its prefix.",
    "Method Not Allowed": "This URL does not support this method; POST a "
    "picture to search, and GET the other URLs.",
}
_GRACE = 5  # seconds to finish open requests at shutdown
_MAX_SEARCHES = 8  # concurrent searches; others wait without using a thread


class Searcher:
    """Finds the documents nearest to a picture.

    The constructor compiles everything, so that the first search takes no
    longer than later ones. Instances are thread-safe.

    Attributes:
      index: the index that is searched.
    """

    def __init__(
        self,
        index: Index,
        trained: Trained,
        mesh: Mesh,
        max_megapixels: float = MAX_MEGAPIXELS,
    ):
        """Compiles the search.

        Args:
          index: the documents.
          trained: the model that embedded them.
          mesh: the devices that the documents' rows are split over.
          max_megapixels: the maximum size of a decoded picture.
        """
        self.index = index
        self.max_pixels = int(max_megapixels * 1e6)
        self._size = trained.config.data.image_size
        self._gallery = search.make_gallery(index.embeddings, mesh)
        replicated = mesh_lib.replicated(mesh)
        self._variables = jax.device_put(trained.variables, replicated)
        encode = functools.partial(trained.model.apply, method="encode_query")
        self._encode = jax.jit(encode, out_shardings=replicated)
        self._lock = threading.Lock()
        self._find(decoding.blank(self._size))

    def search(self, content: bytes, k: int) -> list[tuple[int, float]]:
        """Finds the documents nearest to a picture.

        Args:
          content: the bytes of an image file.
          k: the number of documents, at most `MAX_K`.

        Returns:
          Rows of the index and their cosines, the nearest first; fewer than k
          if the index has fewer.

        Raises:
          UnreadableImageError: if the content is not a picture.
        """
        Image.init()
        pixels = decoding.decode(
            content,
            self._size,
            self.max_pixels,
            option="--max-megapixels",
            formats=[name for name in _FORMATS if name in Image.OPEN],
        )
        cosines, rows = self._find(pixels)
        pairs = zip(rows.tolist(), cosines.tolist(), strict=True)
        return [(row, cosine) for row, cosine in pairs if row >= 0][:k]

    def _find(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `MAX_K` cosines and rows; a fixed k avoids recompilation."""
        with self._lock:
            query = {"image": pixels[None]}
            embedding = jax.device_get(self._encode(self._variables, query))
            cosines, rows = search.top_k(self._gallery, embedding, MAX_K)
        return cosines[0], rows[0]


def make_app(searcher: Searcher, max_megabytes: float = 20) -> Starlette:
    """Returns the ASGI application.

    Args:
      searcher: finds the documents.
      max_megabytes: the maximum size of an uploaded picture.

    Raises:
      UserError: if `max_megabytes` is not above 0 and at most 1000.
    """
    if not 0 < max_megabytes <= 1000:
        raise UserError(
            f"--max-megabytes is {max_megabytes:g}; it must be more than 0 and "
            "at most 1000."
        )
    documents = searcher.index.documents
    page = _render(searcher.index, max_megabytes)
    reader = uploads.Reader(max_megabytes)
    limiter = anyio.CapacityLimiter(_MAX_SEARCHES)

    async def home(request: Request) -> HTMLResponse:
        return HTMLResponse(page)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "documents": len(documents),
                "workdir": str(searcher.index.workdir),
                "step": searcher.index.step,
            }
        )

    async def answer_search(request: Request) -> JSONResponse:
        url_k = _queried_k(request.query_params)
        async with reader.read(request) as upload:
            if url_k is not None and upload.k is not None:
                raise HTTPException(
                    400, "Both the URL and the form have a k; give only one."
                )
            k = url_k or (_read_k(upload.k) if upload.k is not None else 0)
            # Run in a thread, since the search would block the event loop.
            answer = await anyio.to_thread.run_sync(
                find, upload.content, k or DEFAULT_K, limiter=limiter
            )
        return JSONResponse(answer)

    def find(content: bytes, k: int) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            found = searcher.search(content, k)
        except decoding.UnreadableImageError as error:
            raise HTTPException(400, refusal(content, error)) from error
        seconds = time.perf_counter() - start
        return {
            "results": [_result(row, cosine) for row, cosine in found],
            "milliseconds": round(1000 * seconds, 1),
        }

    def _result(row: int, cosine: float) -> dict[str, Any]:
        document = documents.iloc[row]
        return {
            "sample_id": document["sample_id"],
            "text": document["text"],
            "category_id": document["category_id"],
            "score": cosine,
            "image": f"image/{row}" if document["image"] else None,
        }

    def picture(request: Request) -> Response:
        digits = request.path_params["row"]
        # int() raises an error for thousands of digits.
        row = int(digits) if re.fullmatch("[0-9]{1,9}", digits) else -1
        if not 0 <= row < len(documents):
            raise HTTPException(404, f"There is no document {digits[:20]}.")
        name = documents["image"].iloc[row]
        if not name:
            raise HTTPException(404, f"Document {row} has no picture.")
        images, limit = searcher.index.images, searcher.max_pixels
        return pictures.respond(images, name, row, limit)

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/health", health),
            Route("/search", answer_search, methods=["POST"]),
            Route("/image/{row}", picture),
        ],
        middleware=[Middleware(middleware.with_single_slashes)],
        exception_handlers={HTTPException: _report, Exception: _report_bug},
    )
    # Redirects would use absolute URLs, which lack a proxy's prefix.
    app.router.redirect_slashes = False
    return app


def refusal(content: bytes, error: decoding.UnreadableImageError) -> str:
    """Returns a message that tells the client why a picture is rejected."""
    kind = faults.describe(content)
    if error.kind == faults.TOO_LARGE:
        return f"This is {kind}, but {error.reason}."
    if error.kind in (faults.TRUNCATED, faults.CORRUPT):
        return f"This is {kind} that cannot be read: it is {error.kind}."
    if error.kind == faults.NO_AREA:
        return f"This is {kind} that cannot be read: it has {error.kind}."
    return f"This is {kind}; {_SUPPORTED}."


def run(app: Starlette, listener: socket.socket) -> None:
    """Serves the application until Ctrl-C or SIGTERM."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    # Log only exceptions, not the messages about canceled requests.
    logging.getLogger("uvicorn.error").addFilter(_has_traceback)
    config = uvicorn.Config(
        middleware.without_cancellation(middleware.with_whole_uploads(app)),
        http=connections.Connection,
        log_level="error",  # Bad requests are reported only to the client.
        log_config=None,  # The default config would close existing handlers.
        ws="none",
        timeout_graceful_shutdown=_GRACE,
    )
    connections.Server(config).run(sockets=[listener])


def _has_traceback(record: logging.LogRecord) -> bool:
    return bool(record.exc_info)


def listen(host: str, port: int) -> socket.socket:
    """Opens a port; connections wait until the server runs.

    Args:
      host: a name or an address of this machine.
      port: the port, or 0 for any free one.

    Raises:
      UserError: if the port cannot be opened.
    """
    try:
        if not 0 <= port <= 65535:
            raise OSError(errno.EINVAL, "a port must be from 0 to 65535")
        (family, *_, where), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
        return socket.create_server(where, family=family)
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use; choose another with --port"
        elif isinstance(error, socket.gaierror) or (
            error.errno == errno.EADDRNOTAVAIL
        ):
            reason = (
                "this machine has no such name or address; choose one with "
                "--host, such as 127.0.0.1 or 0.0.0.0"
            )
        raise UserError(
            f"Port {port} on {host or repr(host)} cannot be opened: {reason}."
        ) from error


def address(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _queried_k(query: QueryParams) -> int | None:
    """Returns the parameter k of a URL, or None if it is missing."""
    for name in query:
        if name != "k":
            raise HTTPException(
                400,
                f"The URL has the parameter {name[:20]!r}; only k is "
                f"supported, as in search?k={DEFAULT_K}.",
            )
    if len(query.getlist("k")) > 1:
        raise HTTPException(400, "The URL has more than one k; give only one.")
    return _read_k(query["k"]) if query else None


def _read_k(text: str) -> int:
    # int() would also accept 1_0 and digits from other scripts.
    digits = text.strip()
    k = int(digits) if re.fullmatch("[0-9]{1,9}", digits) else 0
    if not 1 <= k <= MAX_K:
        raise HTTPException(
            400, f"k is {text[:20]!r}; it must be a number from 1 to {MAX_K}."
        )
    return k


def _render(index: Index, max_megabytes: float) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = resources.files(__package__).joinpath("page.html")
    return environment.from_string(template.read_text("utf-8")).render(
        count=len(index.documents),
        step=index.step,
        workdir=index.workdir,
        limit=int(max_megabytes * MEGABYTE),
        limit_text=f"{max_megabytes:g} MB",
        default_k=DEFAULT_K,
        max_k=MAX_K,
    )


def _report(request: Request, error: HTTPException) -> JSONResponse:
    message = _UNROUTED.get(error.detail, error.detail)
    return JSONResponse({"error": message}, error.status_code, error.headers)


def _report_bug(request: Request, error: Exception) -> JSONResponse:
    message = "The search failed; see the server's console for the reason."
    return JSONResponse({"error": message}, 500)
