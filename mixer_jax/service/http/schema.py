"""The OpenAPI document of the service, at /openapi.json."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.service.http import embeddings, events, items, parameters

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NONEMPTY: Schema = {"type": "string", "minLength": 1}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_URL: Schema = {
    "type": ["string", "null"],
    "description": "URL of the picture, relative to /v1/",
}
_PROBABILITY: Schema = {
    "type": ["number", "null"],
    "description": "that the item shows the same thing; null if not calibrated",
}
_FIELDS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_ID: Schema = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": _NONEMPTY,
    "description": "the ID of an item, with / written as %2F",
}
_VECTOR: Schema = {
    "name": "vector",
    "in": "query",
    "schema": _COUNT,
    "description": "the number of one of the item's pictures",
}
_SHOWN = {"id": _TEXT, "text": _TEXT, "group": _TEXT, "category": _TEXT}
_SHOWN |= {"fields": _FIELDS, "image": _URL}
_PICTURE = {"type": "string", "format": "binary"}


def document() -> Schema:
    """Returns the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "mixer_jax search", "version": "1"},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": {
            "/v1/search": {"post": _search()},
            "/v1/items": {"post": _upsert(), "put": _upsert()},
            "/v1/items/{id}": {
                "parameters": [_ID],
                "get": _operation("Returns an item.", _ref("Item"), 404),
                "put": _put(),
                "delete": _operation(
                    "Deletes an item.", _object({"deleted": _COUNT}), 404
                ),
            },
            "/v1/items/{id}/image": {
                "parameters": [_ID],
                "get": _image(),
            },
            "/v1/items/{id}/why": {
                "parameters": [_ID],
                "get": _explain(),
            },
            "/v1/embeddings": {"post": _embed()},
            "/v1/events": {"post": _click()},
            "/healthz": {"get": _health("Returns whether the process runs.")},
            "/readyz": {"get": _health("Returns whether searches work.")},
            "/metrics": {"get": _plain("Metrics in the format of Prometheus.")},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _schemas() -> dict[str, Schema]:
    query = {
        name: dict(one.schema) for name, one in parameters.PARAMETERS.items()
    }
    result = _object(_SHOWN | {"score": _NUMBER, "probability": _PROBABILITY})
    answer = {"search_id": _TEXT, "results": _list(_ref("Result"))}
    numbers = _list(_NUMBER) | {"minItems": 1}
    item = {name: _TEXT for name in items.TEXTS} | {
        "id": _NONEMPTY,
        "fields": _FIELDS,
        "image": _TEXT | {"description": "base64, or a data: URL"},
        "images": _list(_TEXT) | {"maxItems": items.MAX_IMAGES},
        "vector": {"anyOf": [numbers, _list(numbers) | {"minItems": 1}]},
    }
    position = _COUNT | {"maximum": events.MAX_POSITION}
    several = {
        "type": "array",
        "items": _ref("Query"),
        "minItems": 1,
        "maxItems": parameters.MAX_QUERIES,
    }
    return {
        "Error": _object({"error": _TEXT}),
        "Query": _object(query, required=()),
        "Queries": _object(query | {"queries": several}, required=("queries",)),
        "Result": result,
        "Answer": _object(answer | {"milliseconds": _NUMBER}),
        "Answers": _object(
            {"answers": _list(_object(answer)), "milliseconds": _NUMBER}
        ),
        "NewItem": _object(item, required=("id",)),
        "Item": _object(_SHOWN | {"vectors": _COUNT}),
        "Explanation": _object(_explanation()),
        "Event": _object(
            {
                "search_id": _NONEMPTY,
                "item_id": _NONEMPTY,
                "position": position,
            },
            required=("search_id", "item_id"),
        ),
    }


def _search() -> Schema:
    form = {
        name: dict(one.schema)
        for name, one in parameters.PARAMETERS.items()
        if one.in_text
    }
    operation = _operation(
        "Finds the items nearest to a picture, a text, both, an item or a "
        "vector.",
        {"anyOf": [_ref("Answer"), _ref("Answers")]},
        404,
    )
    operation["parameters"] = [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in form.items()
    ]
    operation["requestBody"] = {
        "content": {
            "image/*": {"schema": _PICTURE},
            "multipart/form-data": {
                "schema": _object(form | {"file": _PICTURE}, required=())
            },
            "application/json": {
                "schema": {"anyOf": [_ref("Query"), _ref("Queries")]}
            },
        }
    }
    return operation


def _upsert() -> Schema:
    several = _list(_ref("NewItem"))
    several |= {"minItems": 1, "maxItems": items.MAX_ITEMS}
    body = {"anyOf": [_ref("NewItem"), _object({"items": several})]}
    return _operation(
        "Adds items, and replaces those with the same IDs.",
        _object({"upserted": _COUNT}),
        body=body,
    )


def _put() -> Schema:
    operation = _operation(
        "Adds or replaces an item.", _object({"upserted": _COUNT})
    )
    texts = {name: _TEXT for name in items.TEXTS}
    form = _object(texts | {"file": _PICTURE, "fields": _TEXT}, required=())
    json = _schemas()["NewItem"] | {"required": []}
    operation["requestBody"] = {
        "content": {
            "image/*": {"schema": _PICTURE},
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": json},
        }
    }
    return operation


def _embed() -> Schema:
    one = {
        "anyOf": [
            _TEXT,
            _object({"image": _TEXT, "text": _TEXT}, required=()),
        ]
    }
    several = _list(one) | {"minItems": 1, "maxItems": embeddings.MAX_INPUTS}
    body = _object(
        {
            "input": {"anyOf": [one, several]},
            "encoding_format": {"enum": list(embeddings.FORMATS)},
            "input_type": {"enum": list(embeddings.TYPES)},
            "model": _TEXT,
            "user": _TEXT,
        },
        required=("input",),
    )
    vector = {"anyOf": [_list(_NUMBER), _TEXT]}
    row = {"object": _TEXT, "index": _COUNT, "embedding": vector}
    usage = _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT})
    answer = {"object": _TEXT, "data": _list(_object(row)), "model": _TEXT}
    return _operation(
        "Embeds texts and pictures, as in OpenAI's API.",
        _object(answer | {"usage": usage}),
        body=body,
    )


def _click() -> Schema:
    several = _list(_ref("Event"))
    several |= {"minItems": 1, "maxItems": events.MAX_EVENTS}
    operation = _operation(
        "Records clicks.",
        _object({"recorded": _COUNT}),
        404,
        body={"anyOf": [_ref("Event"), _object({"events": several})]},
    )
    operation["responses"]["202"] = operation["responses"].pop("200")
    return operation


def _image() -> Schema:
    operation = _plain("Returns the picture of an item.", "image/*")
    return operation | {"parameters": [_VECTOR]}


def _explain() -> Schema:
    text = "Returns where the model looks in an item's picture and text."
    operation = _operation(text, _ref("Explanation"), 404)
    return operation | {"parameters": [_VECTOR]}


def _explanation() -> dict[str, Schema]:
    token = {"token": _TEXT, "start": _COUNT, "end": _COUNT, "share": _NUMBER}
    grid = "attention to the cells of the square picture, or null; see note"
    share = "tokens, their parts of the text, and shares of the concept vector"
    return {
        "id": _TEXT,
        "text": _TEXT,
        "attention": {
            "anyOf": [_list(_list(_NUMBER)), {"type": "null"}],
            "description": grid,
        },
        "cls": _NUMBER | {"description": "attention to the whole picture"},
        "tokens": _list(_object(token)) | {"description": share},
        "note": _TEXT | {"description": "why there is no attention"},
        "cosine": _NUMBER | {"description": "with the stored embedding"},
    }


def _health(text: str) -> Schema:
    return _operation(text, {"type": "object"})


def _plain(text: str, kind: str = "text/plain") -> Schema:
    operation = _operation(text, _TEXT)
    operation["responses"]["200"]["content"] = {kind: {"schema": _TEXT}}
    return operation


def _operation(
    text: str, answer: Schema, *statuses: int, body: Schema | None = None
) -> Schema:
    """Returns an operation with JSON bodies; adds the given error statuses."""
    reasons = {400: "Bad request", 401: "No key", 403: "Off", 404: "Not found"}
    reasons |= {408: "Too slow", 413: "Too large", 503: "Overloaded"}
    always = (400, 401, 403, 408, 413, 503)
    responses = {"200": _response("Done", answer)}
    for status in sorted({*always, *statuses}):
        responses[f"{status}"] = _response(reasons[status], _ref("Error"))
    operation: Schema = {"summary": text, "responses": responses}
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _response(text: str, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema}}
    return {"description": text, "content": content}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(
    properties: Mapping[str, Any], required: tuple[str, ...] | None = None
) -> Schema:
    names = tuple(properties) if required is None else required
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(names),
        "additionalProperties": False,
    }
