"""ASGI middleware between the HTTP server and the application."""

import asyncio
import contextlib
import re

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


def with_single_slashes(app: ASGIApp) -> ASGIApp:
    """Collapses repeated slashes: some proxies turn /search into //search."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = scope | {"path": re.sub("/+", "/", scope["path"])}
        await app(scope, receive, send)

    return wrapped


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
