"""Embeddings through OpenAI-compatible requests and responses."""

import base64
import json

import numpy as np
import pytest

from mixer_jax.service.batches import encoder
from tests.service.conftest import draw, observe_loops


def code(color):
    return base64.b64encode(draw(color)).decode()


def embed(client, given, **more):
    response = client.post("/v1/embeddings", json={"input": given, **more})
    assert response.status_code == 200, response.text
    return response.json()


def test_texts_and_pictures_are_embedded(client, shared):
    given = ["a text", f"data:image/png;base64,{code('red')}"]
    given += [{"image": code("lime"), "text": "paint"}, {"text": "b"}]
    answer = embed(client, given, model="any")
    assert answer["object"] == "list"
    assert answer["model"] == shared.current.index.store.fingerprint
    assert [row["index"] for row in answer["data"]] == [0, 1, 2, 3]
    assert answer["usage"]["total_tokens"] > 5
    found = np.array([row["embedding"] for row in answer["data"]])
    signs = [[0, 0, 1], [1, -1, -1], [-1, 1, -1], [0, 0, 1]]
    expected = signs / np.linalg.norm(signs, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_base64_holds_the_same_numbers(client):
    plain = embed(client, "a")["data"][0]["embedding"]
    coded = embed(client, "a", encoding_format="base64")["data"][0]
    numbers = np.frombuffer(base64.b64decode(coded["embedding"]), "<f4")
    np.testing.assert_array_equal(numbers, np.float32(plain))


def test_many_inputs_take_several_batches(client):
    count = 2 * encoder.SIZE + 1
    colors = ["red", "blue"] * count
    given = [{"image": code(color)} for color in colors[:count]]
    rows = embed(client, given, input_type="document")["data"]
    first = [row["embedding"][0] > 0 for row in rows]
    assert first == [color == "red" for color in colors[:count]]


def test_texts_are_tokenized_in_threads(client, shared, monkeypatch):
    model = shared.current.encoder.model
    loops = observe_loops(monkeypatch, model, "count_tokens")
    embed(client, "a")
    assert loops == [None]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input[0] must be a text"),
        ({"input": []}, "1 to 256"),
        ({"input": [[1, 2]]}, "input[0] must be a text"),
        ({"input": ["a", " "]}, "input[1] is blank"),
        ({"input": [{"image": "?"}]}, "input[0] is not base64"),
        ({"input": [{"other": 1}]}, "an object with image"),
        ({"input": "a", "encoding_format": "int8"}, "float or base64"),
        ({"input": "a", "dimensions": 2}, "'dimensions', which is not"),
        ({"input": "data:image/png;base64,aaaa"}, "a PNG, JPEG"),
    ],
)
def test_bad_requests_get_an_error_message(client, body, message):
    response = client.post("/v1/embeddings", content=json.dumps(body))
    assert response.status_code == 400
    assert message in response.json()["error"]
