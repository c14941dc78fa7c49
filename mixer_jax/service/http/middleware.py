"""ASGI middleware between the HTTP server and the application."""

import asyncio
import contextlib
import re
from urllib.parse import quote, unquote

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINGER = 30  # seconds to read the rest of a rejected upload


def without_cancellation(app: ASGIApp) -> ASGIApp:
    """Responds with status 503 if a shutdown cancels a request."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def forward(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, forward)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:
                body = {"error": "The server is stopping."}
                await JSONResponse(body, 503)(scope, receive, send)

    return wrapped


def with_whole_segments(app: ASGIApp) -> ASGIApp:
    """Keeps encoded slashes in the segments of paths; see `decode_segment`.

    Repeated slashes are collapsed: some proxies turn /v1 into //v1.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope.get("raw_path") or quote(scope["path"]).encode()
            parts = re.sub("/+", "/", raw.decode("latin-1")).split("/")
            path = "/".join(map(_encode_segment, parts))
            scope = scope | {"path": path}
        await app(scope, receive, send)

    return wrapped


def _encode_segment(raw: str) -> str:
    return unquote(raw).replace("%", "%25").replace("/", "%2F")


def decode_segment(segment: str) -> str:
    """Returns the value of a path parameter, which may contain slashes."""
    return unquote(segment)


def with_whole_uploads(app: ASGIApp) -> ASGIApp:
    """Reads the rest of an upload before the connection may close.

    Closing with unread bytes resets the connection, and a client that is still
    sending loses the response, for example the error that it is too large.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        names = dict(scope.get("headers", ()))
        more = b"content-length" in names or b"transfer-encoding" in names
        waits = b"expect" in names  # the client waits for "100 Continue"

        async def read() -> Message:
            nonlocal more, waits
            waits = False
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def write(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            if is_body and not message.get("more_body") and more and not waits:
                await send(message | {"more_body": True})
                message = message | {"body": b""}
                # The response is complete even if a shutdown cancels the reads.
                with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(_LINGER):
                        while more:
                            await read()
            await send(message)

        await app(scope, read, write)

    return wrapped
