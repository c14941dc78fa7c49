"""Connections to the server, over a socket."""

import asyncio
import contextlib
import socket
import threading

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mixer_jax.service import server
from mixer_jax.service.http import connections

LARGE = 30_000_000  # more bytes than the socket buffers hold
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(request):
    return PlainTextResponse("hello")


async def slow(request):
    await asyncio.sleep(0.5)
    return PlainTextResponse("slowly")


async def large(request):
    return PlainTextResponse("x" * LARGE)


async def refuse(request):
    raise HTTPException(413, "too large")


APP = Starlette(
    routes=[
        Route("/", hello),
        Route("/slow", slow),
        Route("/large", large),
        Route("/refuse", refuse, methods=["POST"]),
    ]
)


@pytest.fixture
def serving(monkeypatch):
    """Returns a context manager that serves `APP`.

    It yields the address and the list of servers.
    """

    @contextlib.contextmanager
    def serve():
        servers, make = [], connections.Server
        monkeypatch.setattr(
            connections,
            "Server",
            lambda config: servers.append(make(config)) or servers[0],
        )
        with server.listen("127.0.0.1", 0) as listener:
            where = listener.getsockname()
            thread = threading.Thread(target=server.run, args=(APP, listener))
            thread.start()
            try:
                yield where, servers
            finally:
                servers[0].should_exit = True
                thread.join()

    return serve


def _read(client):
    """Returns everything received until the connection closes."""
    with client.makefile("rb") as response:
        return response.read()


@pytest.mark.parametrize(
    ("sent", "answers"),
    [(b"", 0), (b"POST /search HT", 0), (GET, 1), (GET + GET[:-2], 1)],
)
def test_a_connection_without_a_request_is_closed(
    serving, monkeypatch, sent, answers
):
    monkeypatch.setattr(connections, "_TIMEOUT", 0.5)
    with serving() as (where, _), socket.create_connection(where, 60) as client:
        client.sendall(sent)
        assert _read(client).count(b"hello") == answers


def test_a_connection_whose_response_is_not_read_is_closed(
    serving, monkeypatch
):
    monkeypatch.setattr(connections, "_TIMEOUT", 0.5)
    with (
        serving() as (where, servers),
        socket.create_connection(where, 60) as client,
    ):
        client.sendall(GET.replace(b"/", b"/large", 1))
        client.recv(1)
        while servers[0].server_state.connections:  # until dropped
            threading.Event().wait(0.05)
        with contextlib.suppress(ConnectionResetError):
            assert len(_read(client)) < LARGE


def test_a_client_that_closes_its_end_gets_a_response(serving):
    with serving() as (where, _), socket.create_connection(where, 60) as client:
        client.sendall(GET.replace(b"/", b"/slow", 1))
        client.shutdown(socket.SHUT_WR)
        assert b"slowly" in _read(client)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_rejected_upload_is_read_so_that_the_response_arrives(
    serving, version
):
    head = b"POST /refuse HTTP/%s\r\nHost: x\r\nConnection: close\r\n" % version
    head += b"Content-Length: %d\r\n\r\n" % LARGE
    with serving() as (where, _), socket.create_connection(where, 60) as client:
        client.sendall(head)
        client.sendall(bytes(LARGE))
        assert b" 413 " in _read(client)


def test_a_rejected_upload_that_expects_100_continue_is_not_read(serving):
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % LARGE
    with serving() as (where, _), socket.create_connection(where, 10) as client:
        client.sendall(head)
        assert b" 413 " in _read(client)


def test_a_shutdown_logs_nothing(serving, monkeypatch, caplog):
    monkeypatch.setattr(server, "_GRACE", 0.1)
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack:
        where, servers = stack.enter_context(serving())
        clients = [
            stack.enter_context(socket.create_connection(where, 60))
            for _ in range(2)
        ]
        clients[0].sendall(head)
        assert b" 413 " in clients[0].recv(1000)
        clients[1].sendall(GET.replace(b"/", b"/large", 1))
        clients[1].recv(1)
        servers[0].should_exit = True
        while servers[0].server_state.tasks:  # until both are canceled
            threading.Event().wait(0.05)
    assert not [r for r in caplog.records if r.name.startswith("uvicorn")]
