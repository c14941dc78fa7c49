"""Request IDs, and the log of requests."""

import io
import json
import threading

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mixer_jax.service.http import tracing
from mixer_jax.service.http.metrics import Metrics
from tests.service.conftest import observe_loops


@pytest.fixture
def traced():
    """A client, the log and the metrics of an application."""

    def show(request):
        return PlainTextResponse(request.state.request_id)

    log, metrics = io.StringIO(), Metrics()
    layer = Middleware(
        tracing.with_tracing, metrics=metrics, log=True, stream=log
    )
    app = Starlette(routes=[Route("/a/{id}", show)], middleware=[layer])
    return TestClient(app), log, metrics


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1.2_X", True), ("a" * 65, False), ("a b", False), ("", False)],
)
def test_sane_ids_are_taken_over(traced, given, is_kept):
    client, _, _ = traced
    response = client.get("/a/b", headers={"x-request-id": given})
    assert response.text == response.headers["x-request-id"]
    assert (response.text == given) == is_kept
    assert response.text


def test_the_log_is_written_outside_the_event_loop(traced, monkeypatch):
    client, log, _ = traced
    loops = observe_loops(monkeypatch, log, "write")
    with client:
        client.get("/a/b")
    assert log.getvalue().count("\n") == 1
    assert set(loops) == {None}


def test_a_log_that_nobody_reads_delays_no_request(traced, monkeypatch):
    client, log, _ = traced
    writing, opened, lines = threading.Event(), threading.Event(), []

    def block(line):
        writing.set()
        opened.wait()
        lines.append(line)

    monkeypatch.setattr(tracing, "_WAITING", 2)
    monkeypatch.setattr(log, "write", block)
    with client:
        client.get("/a/b")
        writing.wait()
        for _ in range(5):
            assert client.get("/a/b").status_code == 200
        opened.set()
    # One line was being written and two were queued; the rest were dropped.
    assert sum(line != "\n" for line in lines) == 3


def test_requests_are_logged_and_counted(traced):
    client, log, metrics = traced
    with client:  # Exiting flushes the log.
        client.get("/a/b?key=secret", headers={"x-request-id": "one"})
        client.request("STRANGE", "/a/b")
        client.get("/none")
    rows = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [row["status"] for row in rows] == [200, 405, 404]
    assert rows[0]["request_id"] == "one"
    assert (rows[0]["method"], rows[0]["path"]) == ("GET", "/a/b")
    assert rows[0]["milliseconds"] > 0
    assert "secret" not in log.getvalue()
    text = metrics.text()
    assert '{route="/a/{id}",method="GET",status="200"} 1' in text
    assert '{route="/a/{id}",method="other",status="405"} 1' in text
    assert '{route="other",method="GET",status="404"} 1' in text
