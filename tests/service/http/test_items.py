"""Reading, writing and deleting items."""

import base64
import json
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from mixer_jax.service import opening, server
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.settings import DEFAULTS
from tests.service.conftest import PIXELS, draw, opener

KEY = "0123456789abcdef"
HEADERS = {"authorization": f"Bearer {KEY}"}
SETTINGS = DEFAULTS._replace(keys=Keys(write=(KEY.encode(),)))


@pytest.fixture
def writer(own):
    app = server.make_app(own, SETTINGS)
    with TestClient(app, headers=HEADERS) as client:
        yield client


@pytest.fixture
def reader(shared):
    """A client of the shared index; tests must not change it."""
    app = server.make_app(shared, SETTINGS)
    with TestClient(app, headers=HEADERS) as client:
        yield client


def first(client, content):
    answer = client.post("/v1/search?k=1", content=content).json()
    return answer["results"][0]


def test_an_item_is_written_found_read_and_deleted(writer):
    violet = draw((120, 0, 255))
    response = writer.put("/v1/items/new", content=violet)
    assert (response.status_code, response.json()) == (200, {"upserted": 1})
    found = first(writer, violet)
    assert (found["id"], found["text"]) == ("new", "")
    # A second PUT replaces the item.
    form = {"text": "violet paint", "fields": '{"price": 3}'}
    files = {"file": ("a.png", violet)}
    writer.put("/v1/items/new", data=form, files=files)
    shown = writer.get("/v1/items/new").json()
    assert shown == {
        "id": "new",
        "text": "violet paint",
        "group": "",
        "category": "",
        "fields": {"price": 3},
        "vectors": 1,
        "image": None,
    }
    assert writer.get("/v1/items/new/image").status_code == 404
    assert writer.delete("/v1/items/new").json() == {"deleted": 1}
    for method in ("get", "delete"):
        response = getattr(writer, method)("/v1/items/new")
        assert response.status_code == 404
        assert "There is no item 'new'" in response.json()["error"]
    assert first(writer, violet)["id"] == "blue.png"


def test_several_items_are_written_at_once(writer):
    items = [
        {"id": "a", "image": base64.b64encode(draw("black")).decode()},
        {"id": "b", "text": "words", "group": "g", "category": "c"},
        {"id": "c", "vector": [0.1, 0.2, -0.3], "fields": {"price": 1.5}},
    ]
    response = writer.post("/v1/items", json={"items": items})
    assert response.json() == {"upserted": 3}
    assert first(writer, draw("black"))["id"] == "a"
    assert writer.get("/v1/items/b").json()["group"] == "g"
    found = writer.post("/v1/search", json={"id": "c", "k": 1}).json()
    assert len(found["results"]) == 1
    one = {"id": "d", "text": "words"}
    assert writer.post("/v1/items", json=one).json() == {"upserted": 1}


@pytest.mark.parametrize("id", ["a/b", "https://shop/a", "50%", "%2F", "ü ?#"])
def test_any_id_can_be_in_a_url(writer, id):
    writer.post("/v1/items", json={"id": id, "image": code("black")})
    found = first(writer, draw("black"))
    assert found["id"] == id
    url = f"/v1/items/{quote(id, safe='')}"
    assert writer.get(url).json()["id"] == id
    assert writer.delete(url).status_code == 200


def code(color):
    return base64.b64encode(draw(color)).decode()


def test_thumbnails_are_shown_without_files(color_net, tmp_path):
    made = opening.open_index(tmp_path / "index", color_net, thumbnails=8)
    made.close()
    with Generations(opener(tmp_path / "index", color_net), PIXELS) as own:
        app = server.make_app(own, SETTINGS)
        with TestClient(app, headers=HEADERS) as client:
            client.put("/v1/items/a", content=draw("red", size=(64, 64)))
            image = first(client, draw("red"))["image"]
            for url in (f"/v1/{image}", "/v1/items/a/image"):
                shown = client.get(url)
                assert shown.headers["content-type"] == "image/webp"
            # The vector of a changed item gets a new number.
            client.put("/v1/items/a", content=draw("blue"))
            assert client.get(f"/v1/{image}").status_code == 200


@pytest.mark.filterwarnings("error:overflow")  # on the server's console
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "An item has no id"),
        ({"id": ""}, "An item has no id"),
        ({"id": 5}, "An item has no id"),
        ({"id": "a"}, "no picture, text, or vector"),
        ({"id": "a", "text": 5}, "text of item 'a' is not a string"),
        ({"id": "a", "texts": "b"}, "did you mean 'text'"),
        ({"id": "a", "image": "/w=="}, "Item 'a': This is plain text; a PNG"),
        ({"id": "a", "image": "http://a/b"}, "the server does not fetch"),
        ({"id": "a", "images": 5}, "not a list of at most 64"),
        ({"id": "a", "vector": [1]}, "shape (1,)"),
        ({"id": "a", "vector": [0, 0, 0]}, "zero or not finite"),
        ({"id": "a", "vector": [1e300, 0, 0]}, "zero or not finite"),
        ({"id": "a", "vector": ["x"]}, "vector of item 'a' is not a list"),
        ({"id": "a", "vector": [10**400]}, "vector of item 'a' is not a list"),
        ({"id": "a", "vector": [[1, 2], [3]]}, "is not a list of n"),
        ({"id": "a", "text": "b", "fields": 5}, "is not a JSON object"),
        ({"id": "a", "text": "b", "fields": {"brand": 5}}, "unknown field"),
        ({"id": "a", "text": "b", "fields": {"price": "x"}}, "is a number"),
        ({"id": "a", "text": "b", "fields": {"price": 10**400}}, "a number"),
        ({"id": "a", "text": "\0"}, "null"),
        ({"id": "a\ud800", "text": "b"}, "lone surrogate"),
        ({"items": []}, "a list of 1 to 1000"),
        ({"items": [5]}, "An item is not a JSON object"),
        ({"items": [], "id": "a"}, "items and other keys"),
        ([], "a list, not a JSON object"),
    ],
)
def test_bad_items_get_an_error_message(reader, body, message):
    response = reader.post(
        "/v1/items",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]


def test_bad_requests_for_one_item_get_an_error_message(reader):
    for method, url, content, status, message in (
        ("PUT", "/v1/items/a", b"%PDF-1.7", 400, "a PDF document"),
        ("PUT", "/v1/items/a", b"", 400, "no picture"),
        ("PUT", "/v1/items/a", b'{"id": "b"}', 400, "the body names another"),
        ("PUT", "/v1/items/", b"", 404, "names no item"),
        ("POST", "/v1/items", draw("red"), 400, "Send JSON"),
        ("PATCH", "/v1/items/a", b"", 405, "does not support this method"),
        ("GET", "/v1/items/red.png/image?vector=x", b"", 400, "whole number"),
        ("GET", "/v1/items/none/image", b"", 404, "There is no item 'none'"),
    ):
        response = reader.request(method, url, content=content)
        assert response.status_code == status, response.text
        assert message in response.json()["error"]


def test_writing_needs_a_key(shared):
    for settings, key, status in (
        (DEFAULTS, KEY, 403),
        (SETTINGS, "", 401),
        (SETTINGS, "another key", 401),
    ):
        with TestClient(server.make_app(shared, settings)) as client:
            for method, url in (
                ("PUT", "/v1/items/a"),
                ("POST", "/v1/items"),
                ("DELETE", "/v1/items/red.png"),
            ):
                response = client.request(
                    method, url, headers={"x-api-key": key}
                )
                assert response.status_code == status
                assert "Writing" in response.json()["error"]
            assert client.get("/v1/items/red.png").status_code == 200
