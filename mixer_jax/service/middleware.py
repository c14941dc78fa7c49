"""ASGI middleware between the HTTP server and the application."""

import asyncio
import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def without_cancellation(app: ASGIApp) -> ASGIApp:
    """Answers requests with status 503 if a shutdown cancels them."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def note(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await app(scope, receive, note)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not began:
                said = JSONResponse({"error": "The server is stopping."}, 503)
                await said(scope, receive, send)

    return answer


def with_single_slashes(app: ASGIApp) -> ASGIApp:
    """Collapses repeated slashes: some proxies turn /search into //search."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = scope | {"path": re.sub("/+", "/", scope["path"])}
        await app(scope, receive, send)

    return answer
