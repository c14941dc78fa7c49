"""Reads, writes, deletes and explains items, and shows their pictures."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.batches.batching import FullError
from mixer_jax.service.batches.encoder import SIZE
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.entries import is_text
from mixer_jax.service.explaining import NOT_STORED, Explained
from mixer_jax.service.http import middleware, parameters, pictures
from mixer_jax.service.http.context import Service, busy
from mixer_jax.service.http.parameters import bad
from mixer_jax.service.http.searches import image_url
from mixer_jax.service.http.uploads import Upload
from mixer_jax.service.stores.interface import Item, Picture, Vector

MAX_ITEMS = 1000  # per request
MAX_IMAGES = 64  # per item
TEXTS = ("id", "text", "group", "category")
KEYS = (*TEXTS, "fields", "image", "images", "vector")

Entry = dict[str, Any]  # a checked item, with the bytes of its pictures


def routes(service: Service, max_pixels: int) -> list[Route]:
    """Returns the routes of items.

    Args:
      service: the parts of the application.
      max_pixels: the maximum number of pixels of a picture to crop.
    """
    handler = _Handler(service, max_pixels)
    one, write = "/v1/items/{id:path}", ["PUT", "POST"]
    return [
        Route("/v1/items", handler.write_several, methods=write),
        Route(f"{one}/image", handler.picture),
        Route(f"{one}/why", handler.explain),
        Route(one, handler.read),
        Route(one, handler.write, methods=["PUT"]),
        Route(one, handler.delete, methods=["DELETE"]),
    ]


class _Handler:
    def __init__(self, service: Service, max_pixels: int):
        self._service, self._max_pixels = service, max_pixels

    async def read(self, request: Request) -> JSONResponse:
        """Answers GET /v1/items/ID."""
        self._service.keys.require_read(request)
        id = _id(request)
        item = await self._service.read(lambda generation: _get(generation, id))
        return JSONResponse(_shown(item))

    async def write(self, request: Request) -> JSONResponse:
        """Answers PUT /v1/items/ID."""
        self._service.keys.require_write(request)
        id = _id(request)
        return await self._write(request, lambda upload: [_one(upload, id)])

    async def write_several(self, request: Request) -> JSONResponse:
        """Answers POST and PUT /v1/items."""
        self._service.keys.require_write(request)
        return await self._write(request, _several)

    async def _write(
        self, request: Request, parse: Callable[[Upload], list[Entry]]
    ) -> JSONResponse:
        async with self._service.reader.read(request) as upload:
            entries = await self._service.decode(lambda: parse(upload))
            await self._service.write(
                lambda generation: _upsert(generation, entries)
            )
        return JSONResponse({"upserted": len({one["id"] for one in entries})})

    async def delete(self, request: Request) -> JSONResponse:
        """Answers DELETE /v1/items/ID."""
        self._service.keys.require_write(request)
        id = _id(request)
        if not await self._service.write(
            lambda generation: generation.index.delete([id])
        ):
            raise _missing(id)
        return JSONResponse({"deleted": 1})

    async def picture(self, request: Request) -> Response:
        """Answers GET /v1/items/ID/image."""
        self._service.keys.require_read(request)
        id, number = _id(request), _number(request)
        return await self._service.read(
            lambda generation: self._show(generation, id, number)
        )

    def _show(
        self, generation: Generation, id: str, number: int | None
    ) -> Response:
        store = generation.index.store
        found: Picture | Vector | None
        found = None if number is None else store.picture(id, number)
        # Vectors of changed items may have other numbers.
        if found is None:
            found = _first(_get(generation, id))
        if not (found.image or found.thumbnail):
            raise _no_picture(_get(generation, id))
        path = generation.index.path_of(found.image)
        return pictures.respond(path, found.thumbnail, id, self._max_pixels)

    async def explain(self, request: Request) -> JSONResponse:
        """Answers GET /v1/items/ID/why."""
        service, id = self._service, _id(request)
        service.keys.require_read(request)
        _require_only_vector(request)
        number = _number(request)
        with service.generations.use() as generation:
            item, vector = await anyio.to_thread.run_sync(
                _explainable, generation, id, number
            )
            try:
                found = await asyncio.wrap_future(
                    service.explanations.submit(generation.index, item, vector)
                )
            except FullError as error:
                service.metrics.refused.add()
                raise busy(error) from error
            except UserError as error:
                reason = f"Item {quoted(id)} cannot be explained: {error}"
                raise HTTPException(404, reason) from error
        return JSONResponse(_explained(item, found))


def _id(request: Request) -> str:
    id = middleware.decode_segment(request.path_params["id"])
    if not id:
        raise HTTPException(404, "The URL names no item.")
    return id


def _require_only_vector(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name != "vector":
            raise bad(
                f"The URL has the parameter {name[:20]!r}, which is not "
                "supported. The only parameter is vector."
            )
    if len(names) > 1:
        raise bad("The URL has more than one vector; give only one.")


def _number(request: Request) -> int | None:
    """Returns the number of a vector that the URL names, or None."""
    digits = request.query_params.get("vector")
    # int() raises an error for thousands of digits.
    if digits is not None and not re.fullmatch("[0-9]{1,18}", digits):
        raise bad(f"vector is {digits[:20]!r}; it must be a whole number.")
    return None if digits is None else int(digits)


def _vector(generation: Generation, item: Item, number: int | None) -> Vector:
    """Returns a vector of an item; by default that of `_first`."""
    store = generation.index.store
    found = None if number is None else store.picture(item.id, number)
    if found is not None:
        for one in item.vectors:
            if (one.image, one.thumbnail) == (found.image, found.thumbnail):
                return one
    return _first(item)


def _first(item: Item) -> Vector:
    """Returns an item's first vector with a picture, or its first vector."""
    with_picture = [one for one in item.vectors if one.image or one.thumbnail]
    return (with_picture or item.vectors)[0]


def _explainable(
    generation: Generation, id: str, number: int | None
) -> tuple[Item, Vector]:
    """Returns an item and its vector to explain."""
    item = _get(generation, id)
    if reason := generation.index.model.ignores_text:
        raise bad(f"This model's results cannot be explained: {reason}.")
    return item, _vector(generation, item, number)


def _explained(item: Item, found: Explained) -> dict[str, Any]:
    reason, attention = found.explanation.reason, found.explanation.attention
    note = f"The picture has no attention map: {reason}." if reason else ""
    return {
        "id": item.id,
        "text": item.text,
        "attention": None if attention is None else attention.tolist(),
        "cls": found.explanation.cls,
        "tokens": [token._asdict() for token in found.explanation.tokens],
        "note": note,
        "cosine": found.cosine,
    }


def _get(generation: Generation, id: str) -> Item:
    item = generation.index.get(id)
    if item is None:
        raise _missing(id)
    return item


def _missing(id: str) -> HTTPException:
    return HTTPException(404, f"There is no item {quoted(id)}.")


def _no_picture(item: Item) -> HTTPException:
    if is_text(_first(item).content, item.text):
        return HTTPException(404, f"Item {quoted(item.id)} has no picture.")
    message = f"No picture of item {quoted(item.id)} is stored; {NOT_STORED}."
    return HTTPException(404, message)


def _shown(item: Item) -> dict[str, Any]:
    has_picture = any(one.image or one.thumbnail for one in item.vectors)
    return {
        "id": item.id,
        "text": item.text,
        "group": item.group,
        "category": item.category,
        "fields": dict(item.fields),
        "vectors": len(item.vectors),
        "image": image_url(item.id) if has_picture else None,
    }


def _one(upload: Upload, id: str) -> Entry:
    """Returns the item of a body: a picture, a form, or JSON."""
    if upload.is_json:
        given = parameters.read_json(upload.content, "The body")
    else:
        given = dict(upload.fields)
        if "fields" in given:
            text = given["fields"].encode()
            given["fields"] = parameters.read_json(text, "fields")
    if given.setdefault("id", id) != id:
        raise bad(
            f"The URL names item {quoted(id)}, but the body names another."
        )
    entry = check(given)
    if not upload.is_json and upload.content:
        entry["images"].append(upload.content)
    return entry


def _several(upload: Upload) -> list[Entry]:
    """Returns the items of a JSON body: one, or {"items": [...]}."""
    if not upload.is_json:
        raise bad(
            'Send JSON, {"items": [{"id": ..., "image": BASE64, ...}]}, '
            "or PUT a picture to /v1/items/ID."
        )
    body = parameters.read_json(upload.content, "The body")
    given = body.get("items", [body])
    if "items" in body and len(body) > 1:
        raise bad("The body has items and other keys; send only items.")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_ITEMS:
        raise bad(f"items must be a list of 1 to {MAX_ITEMS} items.")
    return [check(one) for one in given]


def check(given: Any) -> Entry:
    """Returns a checked item.

    Raises:
      HTTPException: 400 naming the item and what is wrong.
    """
    if not isinstance(given, Mapping):
        raise bad("An item is not a JSON object.")
    given = {name: one for name, one in given.items() if one is not None}
    id = given.get("id")
    if not isinstance(id, str) or not id:
        raise bad("An item has no id; it must be a non-empty string.")
    for name, value in given.items():
        if name not in KEYS:
            hint = did_you_mean(name[:20], KEYS) or ";"
            raise bad(
                f"Item {quoted(id)} has the unknown key {name[:20]!r}{hint} "
                f"the keys are {', '.join(KEYS)}."
            )
        if name in TEXTS and not isinstance(value, str):
            raise bad(f"{name} of item {quoted(id)} is not a string.")
    if not isinstance(given.get("fields", {}), Mapping):
        raise bad(f"fields of item {quoted(id)} is not a JSON object.")
    return {
        **{name: given.get(name, "") for name in TEXTS},
        "fields": given.get("fields", {}),
        "images": _images(id, given),
        "vectors": _vectors(id, given.get("vector")),
    }


def _images(id: str, given: Mapping[str, Any]) -> list[bytes]:
    found = given.get("images", [])
    if not isinstance(found, list) or len(found) > MAX_IMAGES:
        raise bad(
            f"images of item {quoted(id)} is not a list of at most {MAX_IMAGES}"
            " pictures."
        )
    found = [*([given["image"]] if "image" in given else []), *found]
    name = f"image of item {quoted(id)}"
    return [parameters.decode_image(one, name) for one in found]


def _vectors(id: str, vector: Any) -> np.ndarray | None:
    if vector is None:
        return None
    try:
        with np.errstate(over="ignore"):  # The index refuses infinite elements.
            return np.atleast_2d(np.array(vector, np.float32))
    except (OverflowError, TypeError, ValueError) as error:
        raise bad(
            f"vector of item {quoted(id)} is not a list of numbers."
        ) from error


def _upsert(generation: Generation, entries: Sequence[Entry]) -> None:
    for one in entries:
        for content in one["images"]:
            try:
                generation.encoder.decode(content)
            except UserError as error:
                raise UserError(f"Item {quoted(one['id'])}: {error}") from error
    columns = {
        name: [one[name] for one in entries]
        for name in ("images", "vectors", "fields")
    }
    generation.index.upsert(
        [one["id"] for one in entries],
        **columns,
        texts=[one["text"] for one in entries],
        groups=[one["group"] for one in entries],
        categories=[one["category"] for one in entries],
        batch_size=SIZE,
    )
