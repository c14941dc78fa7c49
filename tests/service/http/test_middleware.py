"""Middleware between the HTTP server and the application."""

import asyncio
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mixer_jax.service.http import middleware


async def path(request):
    return PlainTextResponse(request.url.path)


async def cancelled(request):
    raise asyncio.CancelledError


async def value(request):
    given = request.path_params["value"]
    return PlainTextResponse(middleware.decode_segment(given))


APP = Starlette(
    routes=[
        Route("/a/b", path),
        Route("/stop", cancelled),
        Route("/of/{value}/end", value),
    ]
)


@pytest.mark.parametrize("url", ["/a/b", "//a/b", "//a///b"])
def test_repeated_slashes_are_collapsed(url):
    client = TestClient(middleware.with_whole_segments(APP))
    response = client.get(f"http://testserver{url}")
    assert (response.status_code, response.text) == (200, "/a/b")


@pytest.mark.parametrize("value", ["a/b", "//", "50%25", "%2F", "é"])
def test_segments_may_contain_slashes(value):
    client = TestClient(middleware.with_whole_segments(APP))
    response = client.get(f"/of/{quote(value, safe='')}/end")
    assert (response.status_code, response.text) == (200, value)


def test_a_canceled_request_gets_a_response():
    client = TestClient(middleware.without_cancellation(APP))
    response = client.get("/stop")
    assert response.status_code == 503
    assert "stopping" in response.json()["error"]
