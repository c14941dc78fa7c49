"""What stands between the HTTP server and the application."""

import asyncio
import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def without_cancellation(app: ASGIApp) -> ASGIApp:
    """Answers requests that the end of the server cancels."""

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
    """Takes //search for /search: proxies that replace a prefix send it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = scope | {"path": re.sub("/+", "/", scope["path"])}
        await app(scope, receive, send)

    return answer
