"""The OpenAPI document describes requests and responses."""

import base64
import re

import jsonschema
import pytest
from starlette.testclient import TestClient

from mixer_jax.service import server
from mixer_jax.service.http import items, parameters, schema
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.settings import DEFAULTS
from tests.service.conftest import draw

DOCUMENT = schema.document()
KEY = "0123456789abcdef"


def validator(part):
    whole = part | {"components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(whole)


def operation(method, path):
    return DOCUMENT["paths"][path][method.lower()]


def check_response(response, path):
    method, status = response.request.method, str(response.status_code)
    described = operation(method, path)["responses"][status]
    (content,) = described["content"].values()
    validator(content["schema"]).validate(response.json())


def require_agreement(name, check, value, is_valid):
    """Checks that a schema and the service's own check decide the same."""
    found = validator(DOCUMENT["components"]["schemas"][name])
    assert found.is_valid(value) == is_valid
    if is_valid:
        check(value)
    else:
        with pytest.raises(parameters.HTTPException):
            check(value)


def test_all_schemas_are_valid():
    for part in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(part)
    references = set(re.findall(r"#/components/schemas/(\w+)", repr(DOCUMENT)))
    assert references <= DOCUMENT["components"]["schemas"].keys()


def test_all_routes_are_described(shared):
    app = server.make_app(shared)
    routes = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    described = {
        (path, method.upper())
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert routes - described == {("/", "GET"), ("/openapi.json", "GET")}
    assert described <= routes


def test_responses_conform(own):
    settings = DEFAULTS._replace(keys=Keys(write=(KEY.encode(),)))
    image = base64.b64encode(draw("red")).decode()
    headers = {"x-api-key": KEY}
    with TestClient(server.make_app(own, settings), headers=headers) as client:
        for method, url, body, path in (
            ("POST", "/v1/search", {"image": image}, "/v1/search"),
            ("POST", "/v1/search", {"id": "none"}, "/v1/search"),
            ("POST", "/v1/search", {"k": 0}, "/v1/search"),
            ("POST", "/v1/search", {"queries": [{"id": "red.png"}]}, None),
            ("POST", "/v1/items", {"id": "a", "text": "b"}, "/v1/items"),
            ("GET", "/v1/items/a", None, "/v1/items/{id}"),
            ("GET", "/v1/items/a/why", None, "/v1/items/{id}/why"),
            ("GET", "/v1/items/b/why", None, "/v1/items/{id}/why"),
            ("PUT", "/v1/items/a", {"image": image}, "/v1/items/{id}"),
            ("DELETE", "/v1/items/a", None, "/v1/items/{id}"),
            ("POST", "/v1/embeddings", {"input": "a"}, "/v1/embeddings"),
            ("POST", "/v1/events", {}, "/v1/events"),
            ("GET", "/readyz", None, "/readyz"),
        ):
            response = client.request(method, url, json=body)
            check_response(response, path or url)
        assert client.get("/openapi.json").json() == DOCUMENT


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"text": "a"}, True),
        ({"text": "a", "k": 1000, "offset": 0, "where": {"a": 1}}, True),
        ({"image": "aaaa", "box": [0, 0, 9, 9], "min_score": -1}, True),
        ({"image": "aaaa", "box": [0, 0, 9]}, False),
        ({"text": ""}, False),
        ({"text": "a", "k": 0}, False),
        ({"text": "a", "k": 1.5}, False),
        ({"text": "a", "min_score": 1.5}, False),
        ({"text": "a", "other": 1}, False),
        ({"vector": ["a"]}, False),
    ],
)
def test_the_schema_and_the_checks_agree(body, is_valid):
    require_agreement("Query", parameters.check, body, is_valid)


@pytest.mark.parametrize(
    ("item", "is_valid"),
    [
        ({"id": "a", "text": "", "fields": {"price": 1.5}}, True),
        ({"id": "a", "images": []}, True),
        ({"id": "a", "vector": [0.5, 1]}, True),
        ({"id": "a", "vector": [[0.5, 1], [1, 0]]}, True),
        ({"id": "a", "vector": ["b"]}, False),
        ({"id": ""}, False),
        ({"id": 1}, False),
        ({"text": "a"}, False),
        ({"id": "a", "text": 1}, False),
        ({"id": "a", "fields": []}, False),
        ({"id": "a", "images": [""] * 65}, False),
        ({"id": "a", "other": 1}, False),
    ],
)
def test_the_schema_and_the_checks_of_items_agree(item, is_valid):
    require_agreement("NewItem", items.check, item, is_valid)


def test_explanations_conform(looked_at):
    with TestClient(server.make_app(looked_at)) as client:
        for id in ("flag", "plain", "words", "gone"):
            response = client.get(f"/v1/items/{id}/why")
            check_response(response, "/v1/items/{id}/why")
