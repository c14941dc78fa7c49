"""Reading, writing and deleting items."""

import base64
import json
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from mixer_jax.service import explaining, opening, server
from mixer_jax.service.batches.batching import FullError
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.settings import DEFAULTS
from tests.service.conftest import PIXELS, draw, opener, quarters

KEY = "0123456789abcdef"
HEADERS = {"authorization": f"Bearer {KEY}"}
SETTINGS = DEFAULTS._replace(keys=Keys(write=(KEY.encode(),)))


@pytest.fixture
def writer(own):
    app = server.make_app(own, SETTINGS)
    with TestClient(app, headers=HEADERS) as client:
        yield client


@pytest.fixture
def own_looks(tiny_net, tmp_path):
    """A client of an index with one item of two pictures, and its pictures."""
    shown = [
        quarters("red", "black", "black", "white"),
        quarters("blue", "white", "lime", "white"),
    ]
    folder = tmp_path / "index"
    with opening.open_index(folder, tiny_net, thumbnails=64) as index:
        index.upsert(["two"], images=[shown], texts=["two"])
    with (
        Generations(opener(folder, tiny_net), PIXELS) as made,
        TestClient(server.make_app(made)) as client,
    ):
        yield client, shown


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
    shown = writer.get("/v1/items/new/image")
    assert shown.status_code == 404
    message = "No picture of item 'new' is stored; an index with thumbnails"
    assert message in shown.json()["error"]
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
    shown = writer.get("/v1/items/b/image").json()
    assert shown["error"] == "Item 'b' has no picture."
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


@pytest.fixture
def asking(looked_at):
    with TestClient(server.make_app(looked_at)) as client:
        yield client


def test_an_item_is_explained(asking, tiny_net, looked_at):
    (found,) = asking.post(
        "/v1/search", json={"id": "plain", "k": 1, "min_score": 0.1}
    ).json()["results"]
    assert found["id"] in ("flag", "gone")
    path = looked_at.current.index.images / "flag.png"
    expected = tiny_net.explain(path, "a red flag")
    for query in ("", "?vector=999999"):
        response = asking.get(f"/v1/items/flag/why{query}")
        body = response.json()
        assert response.status_code == 200
        assert body["attention"] == expected.attention.tolist()
        assert (body["id"], body["text"]) == ("flag", "a red flag")
        assert (body["cls"], body["note"]) == (0, "")
        assert body["tokens"] == [t._asdict() for t in expected.tokens]
        assert body["cosine"] == pytest.approx(1, abs=1e-5)


def test_the_named_picture_of_an_item_is_explained(own_looks, tiny_net):
    client, pictures = own_looks
    explained = [
        tiny_net.explain(picture, "two").attention.tolist()
        for picture in pictures
    ]
    assert explained[0] != explained[1]
    found = []
    for picture in pictures:
        hit = client.post("/v1/search?k=1", content=picture).json()
        (number,) = hit["results"][0]["image"].split("vector=")[1:]
        why = client.get(f"/v1/items/two/why?vector={number}").json()
        found.append(why["attention"])
    # Thumbnails, which the explanation reads, are not lossless.
    np.testing.assert_allclose(found, explained, atol=0.02)


def test_an_explanation_says_what_is_missing(asking):
    body = asking.get("/v1/items/plain/why").json()
    assert (body["attention"], body["tokens"]) == (None, [])
    assert "there is no text" in body["note"]
    body = asking.get("/v1/items/words/why").json()
    assert body["attention"] is None
    assert "there is no picture" in body["note"]
    assert body["tokens"][1]["token"] == "only"
    for id, status, message in (
        ("gone", 404, "Item 'gone' cannot be explained: "),
        ("none", 404, "There is no item 'none'."),
        ("flag?vector=x", 400, "vector is 'x'; it must be a whole number"),
        ("flag?vectr=1", 400, "'vectr', which is not supported"),
        ("flag?vector=1&vector=2", 400, "more than one vector"),
    ):
        id, _, query = id.partition("?")
        response = asking.get(f"/v1/items/{id}/why?{query}")
        assert response.status_code == status
        assert message in response.json()["error"]


def test_models_without_text_are_not_explained(reader, shared, monkeypatch):
    response = reader.get("/v1/items/red.png/why")
    assert "computes no attention" in response.json()["note"]
    model = shared.current.index.model
    monkeypatch.setattr(model, "ignores_text", "it is blind")
    response = reader.get("/v1/items/red.png/why")
    assert response.status_code == 400
    assert "cannot be explained: it is blind." in response.json()["error"]


def test_too_many_explanations_are_refused(asking, monkeypatch):
    def refuse(*_):
        raise FullError(2.5)

    monkeypatch.setattr(explaining.Explanations, "submit", refuse)
    response = asking.get("/v1/items/flag/why")
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
