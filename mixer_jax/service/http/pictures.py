"""Answers requests for the pictures of an index's items."""

import io
import pathlib
import stat

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.runtime.tabular import references
from mixer_jax.runtime.text import quoted

_HEAD = 64  # leading bytes that identify a picture's format
_SIDE = 512  # pixels of a cropped picture
_HEADERS = {"X-Content-Type-Options": "nosniff"}


def respond(
    path: pathlib.Path | None,
    thumbnail: bytes,
    id: str,
    max_pixels: int = decoding.MAX_PIXELS,
) -> Response:
    """Returns the picture of an item.

    Args:
      path: the picture, which may be missing; None for none.
      thumbnail: a small copy of it, shown if the picture is missing;
        b"" for none.
      id: the ID of the item, for messages.
      max_pixels: the maximum number of pixels of a picture to crop.

    Raises:
      HTTPException: if the picture is missing or cannot be read, or if the file
        is not a picture.
    """
    content = None if path is None else _content(path, id, bool(thumbnail))
    if path is None or content is None:
        if thumbnail:
            kind = Image.MIME["WEBP"]
            return Response(thumbnail, media_type=kind, headers=_HEADERS)
        raise _missing(path, id)
    kind = _media_type(content)
    if kind is None:
        raise HTTPException(
            404,
            f"The file {references.label(path)} of item {quoted(id)} is not a "
            "picture.",
        )
    file, box = references.split(path)
    if box:
        return _cropped(path, id, max_pixels)
    if references.parse(file) is not None:
        return Response(content, media_type=kind, headers=_HEADERS)
    return FileResponse(file, media_type=kind, headers=_HEADERS)


def _content(path: pathlib.Path, id: str, has_copy: bool) -> bytes | None:
    """Returns a picture or its head; None if it is missing."""
    file = pathlib.Path(references.split(path)[0])
    try:
        if references.parse(file) is not None:
            return decoding.read(file)
        return _read_head(file)
    except (OSError, UnreadableImageError) as error:
        if has_copy or getattr(error, "kind", "") == faults.MISSING:
            return None
        reason = getattr(error, "strerror", None) or error.reason
        raise HTTPException(
            500,
            f"The picture {references.label(path)} of item {quoted(id)} cannot "
            f"be read: {reason}.",
        ) from error


def _cropped(path: pathlib.Path, id: str, max_pixels: int) -> Response:
    """Returns the part of a picture in its crop box, on a white square."""
    try:
        pixels = decoding.decode(
            path, _SIDE, max_pixels, option="--max-megapixels"
        )
    except UnreadableImageError as error:
        raise HTTPException(
            500, f"The picture of item {quoted(id)} cannot be shown: {error}"
        ) from error
    shown = io.BytesIO()
    Image.fromarray(pixels).save(shown, "webp")
    kind = Image.MIME["WEBP"]
    return Response(shown.getvalue(), media_type=kind, headers=_HEADERS)


def _missing(path: pathlib.Path | None, id: str) -> HTTPException:
    what = "The picture" if path is None else references.label(path)
    return HTTPException(
        404,
        f"{what} of item {quoted(id)} is missing; if the pictures were moved, "
        "start the server with --images=FOLDER.",
    )


def _read_head(path: pathlib.Path) -> bytes | None:
    """Returns the first bytes of a file; None if there is no such file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _media_type(content: bytes) -> str | None:
    """Returns the media type of a picture; None for any other file.

    An index from another source may refer to any file, with any suffix.
    """
    name = faults.identify(content[:_HEAD])
    if name in (None, "SVG"):  # Browsers run scripts in SVGs.
        return None
    Image.init()
    return Image.MIME.get(name, "application/octet-stream")
