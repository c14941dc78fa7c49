"""Middleware between the HTTP server and the application."""

import asyncio

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


APP = Starlette(routes=[Route("/a/b", path), Route("/stop", cancelled)])


@pytest.mark.parametrize("url", ["/a/b", "//a/b", "//a///b"])
def test_repeated_slashes_are_collapsed(url):
    client = TestClient(middleware.with_single_slashes(APP))
    response = client.get(f"http://testserver{url}")
    assert (response.status_code, response.text) == (200, "/a/b")


def test_a_canceled_request_gets_a_response():
    client = TestClient(middleware.without_cancellation(APP))
    response = client.get("/stop")
    assert response.status_code == 503
    assert "stopping" in response.json()["error"]
