"""Searches by picture, text, item and vector."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from mixer_jax.retrieval.calibration import Calibration, Curve
from mixer_jax.service import server
from mixer_jax.service.batches import searching
from mixer_jax.service.batches.batching import FullError
from mixer_jax.service.http import parameters, searches
from mixer_jax.service.http.parameters import PARAMETERS
from tests.service.conftest import draw, observe_loops


def ask(client, url="/v1/search", **body):
    response = client.post(url, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def code(color):
    return base64.b64encode(draw(color)).decode()


def ids(answer):
    return [found["id"] for found in answer["results"]]


def test_a_search_returns_the_nearest_items(client):
    response = client.post("/v1/search?k=3", content=draw("blue"))
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"search_id", "results", "milliseconds"}
    assert answer["search_id"] == response.headers["x-request-id"]
    first, second, _ = answer["results"]
    assert {first["id"], second["id"]} == {"blue.png", "blue.jpeg"}
    named = {key: second[key] for key in ("text", "group", "category")}
    assert named == {"text": "blue paint", "group": "cold", "category": "blue"}
    assert first["score"] == pytest.approx(1, abs=1e-3)
    shown = client.get(f"/v1/{first['image']}")
    assert shown.headers["content-type"] in ("image/png", "image/jpeg")


def test_answers_have_probabilities_if_the_index_is_calibrated(own):
    curve = Curve((0.0, 1.0), (0.1, 0.7))
    known = Calibration(curve, curve, 100, 12, 0.01, 0.02, 4)
    with TestClient(server.make_app(own)) as client:

        def found(**body):
            results = ask(client, **body)["results"]
            return [result["probability"] for result in results]

        assert found(image=code("red"), k=2) == [None, None]
        body = {"image": code("red"), "min_probability": 0.5}
        response = client.post("/v1/search", json=body)
        assert response.status_code == 400
        assert "has no calibration" in response.json()["error"]
        with own.use() as generation:
            generation.index.store.calibrate(known)
        assert found(image=code("red"), k=2) == pytest.approx(
            [0.7] * 2, abs=1e-3
        )
        assert len(found(**body)) == 2
        assert found(vector=[1, -1, -1], min_probability=0.71) == []
        form = {"file": draw("red"), "min_probability": (None, "0.5")}
        response = client.post("/v1/search", files=form)
        assert len(response.json()["results"]) == 2
        # The calibration was fitted to pictures.
        assert found(text="red", k=1) == found(id="red.png", k=1) == [None]
        for query in ({"text": "red"}, {"id": "red.png"}):
            query |= {"min_probability": 0.5}
            response = client.post("/v1/search", json=query)
            assert response.status_code == 400
            assert "by a picture alone or a" in response.json()["error"]


def test_bytes_a_form_and_json_are_the_same_search(client):
    answers = [
        client.post("/v1/search?k=5", content=draw("red")).json(),
        client.post(
            "/v1/search?k=5", files={"file": ("a.png", draw("red"))}
        ).json(),
        ask(client, image=code("red"), k=5),
        ask(client, image=f"data:image/png;base64,{code('red')}", k=5),
        ask(client, "/v1/search?k=5", image=code("red")),
    ]
    assert len(answers[0]["results"]) == 5
    assert all(a["results"] == answers[0]["results"] for a in answers)


def test_offset_pages_through_all_items(client):
    whole = ids(ask(client, image=code("red"), k=100))
    assert len(whole) == 12
    parts = [
        ids(ask(client, image=code("red"), k=5, offset=start))
        for start in (0, 5, 10)
    ]
    assert [id for part in parts for id in part] == whole


def test_conditions_scores_and_groups_limit_the_results(client):
    red = {"image": code("red"), "k": 100}
    cold = ask(client, **red, where={"group": "cold"})
    assert len(cold["results"]) == 8
    assert {found["group"] for found in cold["results"]} == {"cold"}
    cheap = ask(client, **red, where={"price": {"max": 2}})
    assert [found["fields"]["price"] for found in cheap["results"]]
    assert max(found["fields"]["price"] for found in cheap["results"]) == 2
    near = ask(client, **red, min_score=0.99)
    assert {found["category"] for found in near["results"]} == {"red"}
    grouped = ask(client, **red, group_by="category")
    assert len(grouped["results"]) == 6
    form = client.post(
        "/v1/search",
        files={"file": ("a", draw("red"))},
        data={"where": '{"group": "warm"}', "k": "100", "min_score": "-1"},
    )
    assert len(form.json()["results"]) == 4


def test_an_item_finds_others_like_it(client):
    found = ids(ask(client, id="red.png", k=1))
    assert found == ["red.jpeg"]
    assert ids(ask(client, id="red.png", k=2, offset=1))[0] != "red.jpeg"
    # Another item represents the group of the query item.
    grouped = ask(client, id="red.png", k=2, group_by="category")
    assert ids(grouped)[0] == "red.jpeg"
    assert len(ids(grouped)) == 2
    later = ask(client, id="red.png", k=1, offset=1, group_by="category")
    assert ids(later) == ids(grouped)[1:]
    response = client.post("/v1/search?id=none", content=b"")
    assert response.status_code == 404
    assert "There is no item 'none'" in response.json()["error"]


def test_vectors_and_texts_are_searched_for(client):
    found = ask(client, vector=[5, -5, -5], k=2)["results"]
    assert {one["category"] for one in found} == {"red"}
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    # The color model embeds all texts without a picture as blue.
    assert ask(client, text="anything", k=1)["results"][0]["category"] == "blue"
    both = client.post("/v1/search?text=paint&k=1", content=draw("red")).json()
    assert both["results"][0]["category"] == "red"


def test_a_box_selects_a_part_of_the_picture(client):
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20, 0] = picture[:, 20:, 1] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    for box, color in (("0,0,20,20", "red"), ("20,0,40,20", "green")):
        response = client.post(
            f"/v1/search?k=1&box={box}", content=file.getvalue()
        )
        assert response.json()["results"][0]["category"] == color
    outside = client.post("/v1/search?box=50,0,60,9", content=file.getvalue())
    assert outside.status_code == 400
    assert "does not overlap" in outside.json()["error"]


def test_several_queries_get_an_answer_each(client):
    answer = ask(
        client,
        k=2,
        queries=[
            {"image": code("red")},
            {"id": "green.png", "k": 1},
            {"vector": [-1, -1, 1]},
        ],
    )
    assert [len(one["results"]) for one in answer["answers"]] == [2, 1, 2]
    categories = [one["results"][0]["category"] for one in answer["answers"]]
    assert categories == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The request is empty"),
        ({"image": 5}, "image is a number; it must be a string"),
        ({"image": "/w=="}, "plain text; a PNG, JPEG"),
        ({"image": "?"}, "image is not base64"),
        ({"image": "https://shop/a.png"}, "the server does not fetch"),
        ({"image": "data:image/png,a"}, "not in base64"),
        ({"text": ""}, "1 to 10,000 characters"),
        ({"text": "  "}, "text is blank"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"id": "red.png", "text": "a"}, "search by one of them"),
        ({"vector": [1, 2]}, "2 elements; embeddings of this index have 3"),
        ({"vector": [0, 0, 0]}, "vector is zero"),
        ({"vector": [1, 2, "3"]}, "a list of finite numbers"),
        ({"vector": [1, 2, 1e39]}, "a list of finite numbers"),
        ({"id": "red.png", "box": [0, 0, 1, 1]}, "A box needs a picture"),
        ({"id": "red.png", "k": 0}, "k is 0; it must be a whole number from"),
        ({"id": "red.png", "k": 1.5}, "whole number from 1 to 1000"),
        ({"id": "red.png", "k": True}, "whole number from 1 to 1000"),
        ({"id": "red.png", "k": 10**400}, "whole number from 1 to 1000"),
        ({"id": "red.png", "offset": -1}, "from 0 to 10000"),
        ({"id": "red.png", "min_score": 2}, "a number from -1 to 1"),
        ({"id": "red.png", "where": []}, "where is []; it must be a JSON"),
        ({"id": "red.png", "where": {"brand": 1}}, "There is no field 'brand'"),
        ({"id": "red.png", "group_by": "brand"}, "There is no field 'brand'"),
        ({"id": "red.png", "wher": {}}, "did you mean 'where'"),
        ({"queries": []}, "a list of 1 to 16"),
        ({"queries": [{"id": "red.png"}, 5]}, "queries[1]: it is not"),
        ({"queries": [{"id": "red.png", "k": 0}]}, "queries[0]: k is 0"),
    ],
)
def test_bad_searches_get_an_error_message(client, body, message):
    response = client.post("/v1/search", content=json.dumps(body))
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "\xed\xa0\x80"}',
        '{"text": "\ud800"}'.encode("utf-16", "surrogatepass"),
        '{"text": "a"}'.encode("utf-32"),
        b'{"text": "\xff"}',
    ],
)
def test_json_that_is_not_utf_8_gets_an_error_message(client, content):
    response = client.post(
        "/v1/search",
        content=content,
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400
    assert "not valid UTF-8" in response.json()["error"]


def test_json_may_start_with_a_byte_order_mark(client):
    response = client.post(
        "/v1/search",
        content=b'\xef\xbb\xbf{"text": "a", "k": 1}',
        headers={"content-type": "application/json"},
    )
    assert len(response.json()["results"]) == 1


def test_long_conditions_are_refused(shared):
    with TestClient(server.make_app(shared)) as client:
        for where, status in (
            ({"group": ["é" * 100] * 900}, 200),
            ({"group": ["é" * 100] * 1000}, 400),
            ({"x" * 100_000: 1}, 400),
        ):
            body = {"id": "red.png", "where": where}
            response = client.post("/v1/search", json=body)
            assert response.status_code == status
            if status == 400:
                message = response.json()["error"]
                assert "at most 100,000 characters" in message


def test_deep_conditions_are_refused():
    where = {}
    for _ in range(100_000):
        where = {"group": where}
    with pytest.raises(HTTPException, match="where is nested too deeply"):
        parameters.check({"id": "red.png", "where": where})


def test_long_answers_are_written_in_threads(client, monkeypatch):
    loops = observe_loops(monkeypatch, searches, "_result")
    ask(client, vector=[1, 0, 0], k=2)
    assert None not in loops
    monkeypatch.setattr(searches, "_FEW", 1)
    loops.clear()
    ask(client, vector=[1, 0, 0], k=2)
    assert loops == [None] * 2


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["red.png", "price", "group", code("red"), "\0"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["price", "group", "min", "max", "id", "text"]),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=5,
)
BODIES = st.dictionaries(
    st.sampled_from([*PARAMETERS, "queries"]), VALUES, min_size=1, max_size=4
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES)
def test_random_bodies_are_answered_or_rejected(client, body):
    response = client.post("/v1/search", content=json.dumps(body))
    assert response.status_code in (200, 400, 404)
    expected = {"results", "answers"} if response.is_success else {"error"}
    assert expected & set(response.json())


def test_a_bad_query_does_not_harm_others_in_its_batch(shared, monkeypatch):
    entered, opened = threading.Event(), threading.Event()
    answers = {}

    def send(name, **body):
        body |= {"image": code("red")}
        answers[name] = client.post("/v1/search", json=body).status_code

    def embed(queries):
        entered.set()
        opened.wait()
        return encode(queries)

    with TestClient(server.make_app(shared)) as client:
        encoder = shared.current.encoder
        encode = encoder.embed
        monkeypatch.setattr(encoder, "embed", embed)
        threads = [
            threading.Thread(target=send, args=[name], kwargs=body)
            for name, body in (
                ("first", {}),
                ("good", {}),
                ("bad", {"where": {"brand": "acme"}}),
            )
        ]
        threads[0].start()
        entered.wait()
        for thread in threads[1:]:
            thread.start()
        # Other requests are answered while a batch runs.
        assert client.get("/healthz").status_code == 200
        opened.set()
        for thread in threads:
            thread.join()
    assert answers == {"first": 200, "good": 200, "bad": 400}


def test_too_many_queries_are_refused_before_decoding(shared, monkeypatch):
    def refuse(self, count=1):
        raise FullError(2.1)

    with TestClient(server.make_app(shared)) as client:
        monkeypatch.setattr(searching.Admission, "enter", refuse)
        response = client.post("/v1/search", content=b"not decoded")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "3"
        assert "try again in 3 s" in response.json()["error"]
        assert "mixer_refused_total 1" in client.get("/metrics").text
