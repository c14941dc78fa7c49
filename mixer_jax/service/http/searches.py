"""Answers searches: one query, or several in one request."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mixer_jax.runtime.text import quoted
from mixer_jax.service.batches.encoder import Query
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.batches.searching import Job
from mixer_jax.service.http import parameters
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.uploads import Upload
from mixer_jax.service.stores.interface import Hit

T = TypeVar("T")
_SEVERAL = "queries"  # the key of several searches in one body
_FEW = 100  # up to this many hits, writing is faster than starting a thread


def routes(service: Service) -> list[Route]:
    """Returns the routes of searches."""
    handler = _Handler(service)
    return [Route("/v1/search", handler.answer, methods=["POST"])]


class _Handler:
    def __init__(self, service: Service):
        self._service = service

    async def answer(self, request: Request) -> JSONResponse:
        """Answers POST /v1/search."""
        service = self._service
        service.keys.require_read(request)
        service.require_room()
        url = parameters.from_texts(
            request.query_params.multi_items(), "The URL"
        )
        async with service.reader.read(request) as upload:
            begin = time.perf_counter()
            with contextlib.ExitStack() as stack:
                stack.enter_context(service.admitted())
                searches, several = await self._parse(upload, url)
                stack.enter_context(service.admitted(len(searches) - 1))
                generation = stack.enter_context(service.generations.use())
                found = await finished(
                    self._find(generation, one) for one in searches
                )
        respond = functools.partial(
            self._respond,
            request,
            list(zip(searches, found, strict=True)),
            several=several,
            begin=begin,
        )
        # Writing many hits or hashing a picture would delay other requests.
        if service.recorder is not None or sum(map(len, found)) > _FEW:
            return await anyio.to_thread.run_sync(respond)
        return respond()

    async def _parse(
        self, upload: Upload, url: dict[str, Any]
    ) -> tuple[list[parameters.Search], bool]:
        """Returns the searches, and whether they were sent as a list."""
        if not upload.is_json:
            form = parameters.from_texts(upload.fields, "The form")
            given = parameters.merge(url, form)
            return [parameters.check(given, upload.content)], False
        return await self._service.decode(
            lambda: _parse_json(upload.content, url)
        )

    async def _find(
        self, generation: Generation, search: parameters.Search
    ) -> list[Hit]:
        query = await self._service.decode(lambda: _prepare(generation, search))
        options = search.options
        # Leave out the item itself. Masking it is slower, but necessary for
        # groups, because it would represent its own group.
        is_masked = search.id and options.group_by
        if is_masked:
            options = options._replace(without=search.id)
        elif search.id:
            limit = options.k + options.offset + 1
            options = options._replace(k=limit, offset=0)
        job = Job(generation, query, options)
        hits = await asyncio.wrap_future(self._service.searches.submit(job))
        if isinstance(hits, Exception):
            raise hits
        if search.id and not is_masked:
            hits = [hit for hit in hits if hit.id != search.id]
            start = search.options.offset
            hits = hits[start : start + search.options.k]
        return hits

    def _respond(
        self,
        request: Request,
        pairs: Sequence[tuple[parameters.Search, Sequence[Hit]]],
        *,
        several: bool,
        begin: float,
    ) -> JSONResponse:
        """Records searches with their hits, and returns the response."""
        answers = [self._record(request, *pair) for pair in pairs]
        seconds = time.perf_counter() - begin
        body = {"answers": answers} if several else answers[0]
        return JSONResponse(body | {"milliseconds": round(1000 * seconds, 1)})

    def _record(
        self, request: Request, search: parameters.Search, hits: Sequence[Hit]
    ) -> dict[str, Any]:
        recorder = self._service.recorder
        name = request.state.request_id
        if recorder is not None and search.image and not search.text:
            items = [hit.id for hit in hits]
            name = recorder.search(search.image, search.box, items)
        return {"search_id": name, "results": [_result(hit) for hit in hits]}


async def finished(tasks: Iterable[Awaitable[T]]) -> list[T]:
    """Returns the results of all tasks; raises the first error at the end.

    The index must stay open until then.
    """
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return results


def _parse_json(
    content: bytes, url: dict[str, Any]
) -> tuple[list[parameters.Search], bool]:
    body = parameters.read_json(content, "The body")
    if _SEVERAL not in body:
        return [parameters.check(parameters.merge(url, body))], False
    queries = body.pop(_SEVERAL)
    common = parameters.merge(url, body)
    limit = parameters.MAX_QUERIES
    if not isinstance(queries, list) or not 1 <= len(queries) <= limit:
        raise parameters.bad(
            f"queries must be a list of 1 to {limit} searches."
        )
    searches = []
    for place, query in enumerate(queries):
        with _naming(f"queries[{place}]"):
            if not isinstance(query, dict):
                raise parameters.bad("it is not a JSON object.")
            # A query's own options replace those of the whole request.
            searches.append(parameters.check(common | query))
    return searches, True


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except HTTPException as error:
        message = f"{what}: {error.detail}"
        raise HTTPException(error.status_code, message) from error


def _prepare(
    generation: Generation, search: parameters.Search
) -> Query | np.ndarray:
    """Decodes a search's picture, or returns its vector, f32 `[D]`."""
    if search.vector is not None:
        return _unit(search.vector, generation.index.store.dim)
    if search.id:
        item = generation.index.get(search.id)
        if item is None:
            raise HTTPException(404, f"There is no item {quoted(search.id)}.")
        return item.vectors[0].embedding
    generation.encoder.check(bool(search.image), search.text)
    pixels = None
    if search.image:
        pixels = generation.encoder.decode(search.image, search.box)
    return Query(pixels, search.text)


def _unit(vector: np.ndarray, dim: int) -> np.ndarray:
    if len(vector) != dim:
        raise parameters.bad(
            f"vector has {len(vector)} elements; embeddings of this index have "
            f"{dim}."
        )
    norm = np.linalg.norm(vector.astype(np.float64))
    if not norm:
        raise parameters.bad("vector is zero, so it has no direction.")
    return (vector / norm).astype(np.float32)


def _result(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.id,
        "score": float(hit.score),
        "probability": hit.probability,
        "text": hit.text,
        "group": hit.group,
        "category": hit.category,
        "fields": dict(hit.fields),
        "image": image_url(hit.id, hit.number) if hit.number >= 0 else None,
    }


def image_url(id: str, number: int | None = None) -> str:
    """Returns the URL of an item's picture, relative to /v1/.

    Args:
      id: the item.
      number: the number of one of its vectors; None for its first picture.
    """
    query = "" if number is None else f"?vector={number}"
    return f"items/{quote(id, safe='')}/image{query}"
