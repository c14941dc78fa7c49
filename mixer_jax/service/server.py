"""Serves an index over HTTP: a search page and a JSON API.

GET  /                     the page
POST /v1/search            the nearest items; see `http.searches`
     /v1/items             reads, writes and explains items; see `http.items`
POST /v1/embeddings        embeddings; see `http.embeddings`
POST /v1/events            records clicks; see `http.events`
GET  /openapi.json         the description of all requests
GET  /healthz /readyz      whether the process runs, and answers searches
GET  /metrics              metrics for Prometheus

All URLs in responses are relative, so that a proxy can add a prefix.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.batches import collecting
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http import (
    connections,
    embeddings,
    events,
    items,
    middleware,
    schema,
    searches,
    tracing,
)
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.settings import DEFAULTS, Settings
from mixer_jax.service.page import rendering
from mixer_jax.service.stores.interface import StoreError

# Replacements for the router's messages.
_UNROUTED = {
    "Not Found": "There is nothing at this URL; POST a picture to v1/search. "
    "A proxy must strip its prefix.",
    "Method Not Allowed": "This URL does not support this method; see "
    "openapi.json.",
}
_GRACE = 5  # seconds to finish open requests at shutdown
_LOOK = 2.0  # seconds between checks for a rebuilt index
_MAX_LOOK = 60.0  # maximum after failures; each may load a model
_HEADERS = ["Authorization", "Content-Type", "X-API-Key", tracing.HEADER]
_METHODS = ["GET", "POST", "PUT", "DELETE"]


def make_app(
    generations: Generations, settings: Settings = DEFAULTS
) -> Starlette:
    """Returns the ASGI application.

    Args:
      generations: the index.
      settings: the options.
    """
    service = Service(
        generations,
        max_megabytes=settings.max_megabytes,
        keys=settings.keys,
        recorder=settings.recorder,
    )
    app = Starlette(
        routes=[
            *_pages(service, settings),
            *searches.routes(service),
            *items.routes(service, settings.max_pixels),
            *embeddings.routes(service),
            *events.routes(service),
        ],
        middleware=_layers(service, settings),
        exception_handlers={
            HTTPException: _report,
            UserError: _report_user,
            PassingError: _report_passing,
            Exception: _report_bug,
        },
        lifespan=_lifespan(service),
    )
    # Redirects would use absolute URLs, which lack a proxy's prefix.
    app.router.redirect_slashes = False
    return app


def _layers(service: Service, settings: Settings) -> list[Middleware]:
    layers = [
        Middleware(middleware.with_whole_segments),
        Middleware(
            tracing.with_tracing,
            metrics=service.metrics,
            log=settings.log_requests,
        ),
    ]
    if settings.origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=_METHODS,
                allow_headers=_HEADERS,
                expose_headers=[tracing.HEADER, "Retry-After"],
            )
        )
    return layers


def _pages(service: Service, settings: Settings) -> list[Route]:
    """Returns all routes except those of the API."""

    async def home(request: Request) -> HTMLResponse:
        page = await service.read(
            lambda generation: rendering.render(generation, settings)
        )
        return HTMLResponse(page, headers=rendering.headers())

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> JSONResponse:
        return JSONResponse(await anyio.to_thread.run_sync(_state, service))

    async def metrics(request: Request) -> Response:
        service.keys.require_read(request)
        text = await anyio.to_thread.run_sync(service.metrics.text)
        kind = "text/plain; version=0.0.4"
        return PlainTextResponse(text, media_type=kind)

    document = schema.document()

    async def describe(request: Request) -> JSONResponse:
        return JSONResponse(document)

    return [
        Route("/", home),
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/metrics", metrics),
        Route("/openapi.json", describe),
    ]


def _state(service: Service) -> dict[str, object]:
    with service.generations.use() as generation:
        return {
            "status": "ready",
            "items": generation.index.store.count(),
            "fingerprint": generation.index.store.fingerprint,
            "step": generation.index.model.step,
        }


def _lifespan(service: Service):
    """Returns the lifespan handler of the application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(service))
        try:
            yield
        finally:
            watching.cancel()
            await anyio.to_thread.run_sync(service.close)

    return lifespan


async def _watch(service: Service) -> None:
    """Switches to rebuilt indexes."""
    generations = service.generations
    reported, pause, count = "", _LOOK, generations.count
    while True:
        await asyncio.sleep(pause)
        if generations.count != count:  # There was a switch at the last look.
            count = generations.count
            collecting.freeze()
        try:
            await anyio.to_thread.run_sync(generations.refresh)
            reported, pause = "", _LOOK
        except Exception as error:  # The previous generation still works.
            if str(error) != reported:
                print(
                    f"warning: the new index is not used: {error}",
                    file=sys.stderr,
                )
            reported, pause = str(error), min(2 * pause, _MAX_LOOK)


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
    with collecting.frozen():
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


def _report(request: Request, error: HTTPException) -> JSONResponse:
    message = _UNROUTED.get(error.detail, error.detail)
    return JSONResponse({"error": message}, error.status_code, error.headers)


def _report_user(request: Request, error: UserError) -> JSONResponse:
    # A damaged or read-only index is not the client's fault.
    is_ours = isinstance(error, StoreError)
    return JSONResponse({"error": str(error)}, 500 if is_ours else 400)


def _report_passing(request: Request, error: PassingError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})


def _report_bug(request: Request, error: Exception) -> JSONResponse:
    message = "The request failed; see the server's console for the reason."
    return JSONResponse({"error": message}, 500)
