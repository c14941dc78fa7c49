"""An HTTP server that limits how long connections may be idle.

Connections that send nothing, or that read nothing, would otherwise stay open
until the process has no file descriptors left. uvicorn has no such limits.
"""

import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_TIMEOUT = 60  # seconds to send a request's head, or to read a response


class Connection(H11Protocol):
    """A connection that closes if its client stops sending or reading."""

    _no_request: asyncio.TimerHandle | None = None
    _no_reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the timeout for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Stops the timeout if the head of a request is complete."""
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:
        """Returns whether to keep the connection open for a pending response.

        Some clients close their end as soon as they have sent the request.
        """
        return not self._is_waiting() and not self.cycle.more_body

    def on_response_complete(self) -> None:
        """Starts the timeout for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timeouts."""
        super().connection_lost(exc)
        self._no_request = _cancelled(self._no_request)
        self._no_reader = _cancelled(self._no_reader)

    def pause_writing(self) -> None:
        """Starts the timeout for a client that does not read."""
        super().pause_writing()
        self._no_reader = self.loop.call_later(_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the timeout for a client that does not read."""
        super().resume_writing()
        self._no_reader = _cancelled(self._no_reader)

    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Limits the time to send a request's head, even if bytes arrive."""
        if not self._is_waiting() or self.transport.is_closing():
            self._no_request = _cancelled(self._no_request)
        elif self._no_request is None:
            self._no_request = self.loop.call_later(
                _TIMEOUT, self.timeout_keep_alive_handler
            )


class Server(uvicorn.Server):
    """A server that drops connections still open at the end of a shutdown."""

    async def shutdown(
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        """Waits for open requests, then drops unread responses.

        uvloop cannot close an event loop that still has data to write.
        """
        await super().shutdown(sockets)
        if tasks := self.server_state.tasks:
            await asyncio.wait(tasks)  # already canceled
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
