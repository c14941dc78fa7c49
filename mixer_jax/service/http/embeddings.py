"""Embeds texts and pictures, with requests and responses as in OpenAI's API.

References:
  https://platform.openai.com/docs/api-reference/embeddings/create
"""

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mixer_jax.runtime.text import did_you_mean
from mixer_jax.service.batches.encoder import SIZE, Query
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.batches.searching import Job
from mixer_jax.service.http import parameters
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.parameters import bad
from mixer_jax.service.http.searches import finished

MAX_INPUTS = 256  # per request
FORMATS, TYPES = ("float", "base64"), ("query", "document")
# Keys of OpenAI's API that have no effect here.
_IGNORED = ("model", "user")
KEYS = ("input", "encoding_format", "input_type", *_IGNORED)


class _Input(NamedTuple):
    """A picture (b"" for none), a text ("" for none), and the tower."""

    image: bytes
    text: str
    is_document: bool


def routes(service: Service) -> list[Route]:
    """Returns the route of embeddings."""
    handler = _Handler(service)
    return [Route("/v1/embeddings", handler.answer, methods=["POST"])]


class _Handler:
    def __init__(self, service: Service):
        self._service = service

    async def answer(self, request: Request) -> JSONResponse:
        """Answers POST /v1/embeddings."""
        service = self._service
        service.keys.require_read(request)
        service.require_room()
        async with service.reader.read(request) as upload:
            with contextlib.ExitStack() as stack:
                stack.enter_context(service.admitted())
                inputs, form = await service.decode(
                    lambda: _parse(upload.content)
                )
                # Count at most one batch: further inputs wait for it.
                held = min(len(inputs), SIZE) - 1
                stack.enter_context(service.admitted(held))
                generation = stack.enter_context(service.generations.use())
                vectors: list[np.ndarray] = []
                for start in range(0, len(inputs), SIZE):
                    part = inputs[start : start + SIZE]
                    vectors += await finished(
                        self._embed(generation, one) for one in part
                    )
                # Counting tokens is slow for many texts.
                return await service.decode(
                    lambda: _respond(generation, inputs, vectors, form)
                )

    async def _embed(self, generation: Generation, given: _Input) -> np.ndarray:
        query = await self._service.decode(lambda: _prepare(generation, given))
        future = self._service.searches.submit(Job(generation, query, None))
        answer = await asyncio.wrap_future(future)
        if isinstance(answer, Exception):
            raise answer
        return np.asarray(answer)


def _parse(content: bytes) -> tuple[list[_Input], str]:
    """Returns the inputs, and the format of the embeddings."""
    body = parameters.read_json(content, "The body")
    for name in body:
        if name not in KEYS:
            hint = did_you_mean(str(name)[:20], KEYS) or ";"
            raise bad(
                f"The request has the key {str(name)[:20]!r}, which is not "
                f"supported{hint} the keys are {', '.join(KEYS)}."
            )
    form = _choose(body, "encoding_format", FORMATS)
    is_document = _choose(body, "input_type", TYPES) == "document"
    given = body.get("input")
    given = given if isinstance(given, list) else [given]
    if not 1 <= len(given) <= MAX_INPUTS:
        raise bad(f"input must have 1 to {MAX_INPUTS} texts or pictures.")
    return [
        _input(place, one, is_document) for place, one in enumerate(given)
    ], form


def _choose(body: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = body.get(name)
    value = known[0] if value is None else value
    if value not in known:
        raise bad(f"{name} must be {' or '.join(known)}.")
    return value


def _input(place: int, given: Any, is_document: bool) -> _Input:
    name = f"input[{place}]"
    if isinstance(given, str):
        is_image = given[:5].lower() == "data:"
        given = {"image" if is_image else "text": given}
    if (
        not isinstance(given, dict)
        or not given
        or given.keys() - {"image", "text"}
    ):
        raise bad(
            f"{name} must be a text, a data: URL of a picture, or an object "
            "with image (in base64), text or both."
        )
    text = given.get("text", "")
    if not isinstance(text, str) or len(text) > parameters.MAX_TEXT:
        raise bad(
            f"{name} must have a text of at most {parameters.MAX_TEXT:,} "
            "characters."
        )
    image = b""
    if "image" in given:
        image = parameters.decode_image(given["image"], name)
    if not image and not text.strip():
        raise bad(f"{name} is blank; give a text or a picture.")
    return _Input(image, text.strip() and text, is_document or not image)


def _prepare(generation: Generation, given: _Input) -> Query:
    generation.encoder.check(bool(given.image), given.text)
    pixels = None
    if given.image:
        pixels = generation.encoder.decode(given.image)
    return Query(pixels, given.text, given.is_document)


def _respond(
    generation: Generation,
    inputs: list[_Input],
    vectors: list[np.ndarray],
    form: str,
) -> JSONResponse:
    model = generation.encoder.model
    tokens = model.count_tokens([one.text for one in inputs])
    body = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": place,
                "embedding": vector.tolist()
                if form == "float"
                else base64.b64encode(vector.astype("<f4").tobytes()).decode(),
            }
            for place, vector in enumerate(vectors)
        ],
        "model": generation.index.store.fingerprint,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(body)
