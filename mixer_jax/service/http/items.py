"""Reads, writes and deletes items, and shows their pictures."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.batches.encoder import SIZE
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.http import middleware, parameters, pictures
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.parameters import bad
from mixer_jax.service.http.searches import image_url
from mixer_jax.service.http.uploads import Upload
from mixer_jax.service.stores.interface import Item

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
        id, digits = _id(request), request.query_params.get("vector")
        # int() raises an error for thousands of digits.
        if digits is not None and not re.fullmatch("[0-9]{1,18}", digits):
            raise bad(f"vector is {digits[:20]!r}; it must be a whole number.")
        number = None if digits is None else int(digits)
        return await self._service.read(
            lambda generation: self._show(generation, id, number)
        )

    def _show(
        self, generation: Generation, id: str, number: int | None
    ) -> Response:
        index = generation.index
        if number is None:
            vectors = _get(generation, id).vectors
            with_picture = [v for v in vectors if v.image or v.thumbnail]
            found = with_picture[0] if with_picture else None
        else:
            found = index.store.picture(number)
            # Vectors of changed items get new numbers.
            if found is None or found.id != id:
                return self._show(generation, id, None)
        if found is None or not (found.image or found.thumbnail):
            raise HTTPException(404, f"Item {quoted(id)} has no picture.")
        path = index.path_of(found.image)
        return pictures.respond(path, found.thumbnail, id, self._max_pixels)


def _id(request: Request) -> str:
    id = middleware.decode_segment(request.path_params["id"])
    if not id:
        raise HTTPException(404, "The URL names no item.")
    return id


def _get(generation: Generation, id: str) -> Item:
    item = generation.index.get(id)
    if item is None:
        raise _missing(id)
    return item


def _missing(id: str) -> HTTPException:
    return HTTPException(404, f"There is no item {quoted(id)}.")


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
