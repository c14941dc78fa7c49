"""Records clicks on items shown by a search."""

import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.batches.generations import Generation
from mixer_jax.service.http import parameters
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.parameters import bad
from mixer_jax.service.http.recording import Click, Recorder

MAX_EVENTS = 100  # per request
MAX_POSITION = 999_999
KEYS = ("search_id", "item_id", "position")
_DAY = 86_400_000_000  # microseconds


def routes(service: Service) -> list[Route]:
    """Returns the route of events."""
    handler = _Handler(service)
    return [Route("/v1/events", handler.answer, methods=["POST"])]


class _Handler:
    def __init__(self, service: Service):
        self._service = service

    async def answer(self, request: Request) -> JSONResponse:
        """Answers POST /v1/events."""
        service = self._service
        service.keys.require_read(request)
        recorder = service.recorder
        if recorder is None:
            raise HTTPException(
                403,
                "Events are not recorded; start the server with "
                "--events=FOLDER to record them.",
            )
        async with service.reader.read(request) as upload:
            clicks = await service.decode(
                lambda: _parse(upload.content, recorder)
            )
        await service.read(lambda generation: _require(generation, clicks))
        recorder.clicks(clicks)
        return JSONResponse({"recorded": len(clicks)}, 202)


def _parse(content: bytes, recorder: Recorder) -> list[Click]:
    """Returns the clicks of a body: one, or {"events": [...]}."""
    body = parameters.read_json(content, "The body")
    given = body.get("events", [body])
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_EVENTS:
        raise bad(f"events must be a list of 1 to {MAX_EVENTS} events.")
    return [_click(one, recorder) for one in given]


def _click(given: Any, recorder: Recorder) -> Click:
    if not isinstance(given, dict):
        raise bad("An event is not a JSON object.")
    for name in given:
        if name not in KEYS:
            hint = did_you_mean(str(name)[:20], KEYS) or ";"
            raise bad(
                f"An event has the unknown key {str(name)[:20]!r}{hint} the "
                f"keys are {', '.join(KEYS)}."
            )
    text, item = given.get("search_id"), given.get("item_id")
    search = recorder.parse(text) if isinstance(text, str) else None
    age = time.time_ns() // 1000 - search.time if search else -1
    if search is None or not 0 <= age <= recorder.days * _DAY:
        raise bad(
            "search_id is not the ID of a recorded search; send the search_id "
            "of the response, and only for searches by a picture."
        )
    if not isinstance(item, str) or not item:
        raise bad("item_id is missing; send the id of the clicked item.")
    if "position" not in given:
        return Click(search, item, -1)
    position = given["position"]
    if type(position) is not int or not 0 <= position <= MAX_POSITION:
        raise bad("position must be a whole number, counted from 0.")
    return Click(search, item, position)


def _require(generation: Generation, clicks: list[Click]) -> None:
    """Checks that the clicked items exist."""
    ids = [click.item for click in clicks]
    for id, item in zip(ids, generation.index.store.get(ids), strict=True):
        if item is None:
            raise HTTPException(404, f"There is no item {quoted(id)}.")
