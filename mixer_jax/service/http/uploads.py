"""Reads the bodies of requests, within memory limits."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

MEGABYTE = 1_000_000
_MAX_UPLOADS = 16  # maximum-size uploads held in memory at once
_IDLE_TIMEOUT = 60  # seconds without data before an upload is aborted
_TOTAL_TIMEOUT = 600  # maximum seconds that an upload may occupy memory
_FORM = "multipart/form-data"
_NAME = re.compile(rb"(?i)\bfilename\*=(?!.*\bfilename=)")
# Other form fields, and bytes in each: texts have up to 10,000 characters.
_MAX_FIELDS, _MAX_FIELD = 16, 65_536


class Upload(NamedTuple):
    """The body of a request.

    Attributes:
      content: the body, or the form's file; b"" if there is none.
      is_json: whether the body is JSON.
      fields: names and values of the form's other fields.
    """

    content: bytes
    is_json: bool = False
    fields: tuple[tuple[str, str], ...] = ()


class Reader:
    """Reads uploads and limits their total size in memory."""

    def __init__(self, max_megabytes: float):
        """Sets the maximum size of a request, in megabytes."""
        self._limit = int(max_megabytes * MEGABYTE)
        self._too_large = (
            f"The request is larger than {max_megabytes:g} megabytes "
            "(--max-megabytes); scale the picture down."
        )
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Upload]:
        """Reads a body: a file, a form with at most one file, or JSON.

        The upload's bytes count toward the limit until the context ends.

        Raises:
          HTTPException: 4xx if the upload is too large, incomplete or damaged;
            503 if too many uploads are in memory.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit:
            raise HTTPException(413, self._too_large)
        count = _Count()
        try:
            yield await self._parse(request, count)
        except ClientDisconnect as error:
            raise HTTPException(400, "The upload is incomplete.") from error
        finally:
            self._held -= count.bytes

    async def _parse(self, request: Request, count: "_Count") -> Upload:
        kind = request.headers.get("content-type", "").partition(";")[0]
        kind = kind.strip().lower()
        chunks = self._chunks(request, count)
        if kind == _FORM:
            return await _read_form(request, chunks, self._limit)
        content = b"".join([chunk async for chunk in chunks])
        # curl labels JSON as a form unless told otherwise. No picture starts
        # with a brace.
        is_json = (
            kind == "application/json" or content[:64].lstrip()[:1] == b"{"
        )
        return Upload(content, is_json)

    async def _chunks(
        self, request: Request, count: "_Count"
    ) -> AsyncIterator[bytes]:
        stream, clock = request.stream(), asyncio.get_running_loop().time
        end = clock() + _TOTAL_TIMEOUT
        while True:
            try:
                async with asyncio.timeout_at(
                    min(clock() + _IDLE_TIMEOUT, end)
                ):
                    chunk = await anext(stream, None)
            except TimeoutError as error:
                problem = f"stalled for {_IDLE_TIMEOUT:g} seconds"
                if clock() >= end:
                    problem = f"took more than {_TOTAL_TIMEOUT:g} seconds"
                raise HTTPException(408, f"The upload {problem}.") from error
            if chunk is None:
                return
            count.bytes += len(chunk)
            self._held += len(chunk)
            if count.bytes > self._limit:
                raise HTTPException(413, self._too_large)
            if self._held > _MAX_UPLOADS * self._limit:
                raise HTTPException(
                    503,
                    "Too many concurrent uploads; try again in a moment.",
                    {"Retry-After": "1"},
                )
            yield chunk


class _Count:
    """The number of bytes read from one request."""

    bytes = 0


class _Parser(MultiPartParser):
    """A form parser that also accepts files named only by `filename*`."""

    def on_headers_finished(self) -> None:
        """Reads the headers of a part."""
        part = self._current_part
        # Some clients send only filename*=utf-8''caf%C3%A9.png
        part.content_disposition = _NAME.sub(
            b"filename=", part.content_disposition or b""
        )
        super().on_headers_finished()


async def _read_form(
    request: Request, chunks: AsyncIterator[bytes], limit: int
) -> Upload:
    parser = _Parser(
        request.headers,
        chunks,
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD,
    )
    parser.spool_max_size = limit  # Keep files in memory, not on disk.
    try:
        form = await parser.parse()
        try:
            return await _take_file(form)
        finally:
            await form.close()
    except MultiPartException as error:
        raise HTTPException(
            400,
            f"The form is invalid: {error.message.rstrip('.')}; send one file, "
            "as curl -F file=@picture does.",
        ) from error
    except (LookupError, UnicodeError) as error:
        raise HTTPException(
            400, "The form's charset is unknown or wrong; use UTF-8."
        ) from error


async def _take_file(form: FormData) -> Upload:
    fields, content = [], b""
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            content = await part.read()
        else:
            # Some charsets decode to lone surrogates, which cannot be stored.
            (name + part).encode()
            fields.append((name, part))
    return Upload(content, fields=tuple(fields))
