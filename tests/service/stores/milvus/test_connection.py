"""Connections to Milvus, and their errors."""

import os
from concurrent import futures

import grpc
import pymilvus  # noqa: F401  (binds a log handler to the first sys.stderr)
import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores.interface import StoreError
from mixer_jax.service.stores.milvus import address, connection, lite
from tests.service.stores.items import found, item, make


class _Refusal(grpc.ServerInterceptor):
    """Makes a server refuse all calls for lack of a token."""

    def intercept_service(self, continuation, details):
        def refuse(request, context):
            code = grpc.StatusCode.UNAUTHENTICATED
            context.abort(code, "auth check failure, please check token")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing():
    """The address of a server that refuses all calls."""
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[_Refusal()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop(0).wait()


def test_a_refused_token_is_named(refusing, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    with pytest.raises(UserError, match=r"denies access .*MILVUS_TOKEN") as one:
        connection.Connection(address.parse(refusing))
    shown = str(one.value), caplog.text, *capfd.readouterr()
    assert "secret" not in "".join(shown)


def test_a_server_that_is_away_is_named(monkeypatch):
    monkeypatch.setattr(connection, "_CONNECT", 0.2)
    with pytest.raises(PassingError, match=r"http://127\.0\.0\.1:1 does not"):
        connection.Connection(address.parse("http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        ("UNAVAILABLE: socket closed", PassingError, "does not answer"),
        ("Retry timeout: 60s", PassingError, "does not answer"),
        ("PERMISSION_DENIED: role", StoreError, "denies access"),
        ("token recognition error", StoreError, "failed: token"),
        ("out of\n  quota.", StoreError, r"failed: out of quota\."),
    ],
)
def test_errors_become_one_sentence(message, kind, expected):
    error = connection.explain(message, address.parse("http://h:1"))
    assert type(error) is kind
    with pytest.raises(kind, match=expected):
        raise error


def test_calls_after_a_stop_of_the_server_fail_in_time(tmp_path, monkeypatch):
    path = tmp_path / "index.db"
    with make(path, item("a", 1)) as store:
        port = store._connection._client._config.address
        server = address.parse(f"http://{port}")
        remote = connection.Connection(server)
    monkeypatch.setattr(connection, "_TIMEOUT", 0.3)
    with pytest.raises(PassingError, match="does not answer"):
        remote.call("list_collections", timeout=0.3)
    remote.close()


@pytest.mark.parametrize("given", [None, "DEBUG"])
def test_lite_silences_grpc_unless_told_otherwise(tmp_path, monkeypatch, given):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    if given:
        monkeypatch.setenv("GRPC_VERBOSITY", given)
    connection.Connection(address.parse(str(tmp_path / "a.db"))).close()
    assert os.environ["GRPC_VERBOSITY"] == (given or "NONE")


def test_a_closed_connection_is_not_used(tmp_path, caplog):
    store = make(tmp_path / "index.db", item("a", 1))
    store.close()
    store.close()
    with pytest.raises(UserError, match="was closed"):
        found(store, 1)
    assert not lite._opened


def test_failures_are_not_logged(tmp_path, caplog, capfd):
    with make(tmp_path / "index.db", item("a", 1)) as store:
        list(store.ids(1))  # Lite lacks a call that this tries first.
        with pytest.raises(StoreError, match="Milvus Lite failed"):
            store._rows.count("nothing == 1")
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")
