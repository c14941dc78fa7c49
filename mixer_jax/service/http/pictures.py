"""Answers requests for the pictures of an index's documents."""

import io
import pathlib
import stat

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.runtime.tabular import references

_HEAD = 64  # leading bytes that identify a picture's format
_SIDE = 512  # pixels of a cropped picture
_HEADERS = {"X-Content-Type-Options": "nosniff"}


def respond(
    folder: pathlib.Path,
    name: str,
    row: int,
    max_pixels: int = decoding.MAX_PIXELS,
) -> Response:
    """Returns the picture of a document.

    Args:
      folder: the folder of the pictures.
      name: the name of the picture, relative to this folder.
      row: the number of the document, for messages.
      max_pixels: the maximum number of pixels of a picture that is cropped.

    Raises:
      HTTPException: if the picture is missing or cannot be read, or if the file
        is not a picture.
    """
    file, box = references.split(folder / name)
    path = pathlib.Path(file)
    inside = references.parse(path) is not None
    try:
        content = decoding.read(path) if inside else _read_head(path)
    except (OSError, UnreadableImageError) as error:
        if getattr(error, "kind", "") == faults.MISSING:
            raise _missing(folder, name, row) from error
        reason = getattr(error, "strerror", None) or error.reason
        raise HTTPException(
            500,
            f"The picture {references.label(name)} of document {row} cannot "
            f"be read: {reason}.",
        ) from error
    if content is None:
        raise _missing(folder, name, row)
    kind = _media_type(content)
    if kind is None:
        raise HTTPException(
            404,
            f"The file {references.label(name)} of document {row} is not a "
            "picture.",
        )
    if box:
        return _cropped(folder / name, row, max_pixels)
    if inside:
        return Response(content, media_type=kind, headers=_HEADERS)
    return FileResponse(path, media_type=kind, headers=_HEADERS)


def _cropped(path: pathlib.Path, row: int, max_pixels: int) -> Response:
    """Returns the part of a picture in its crop box, on a white square."""
    try:
        pixels = decoding.decode(
            path, _SIDE, max_pixels, option="--max-megapixels"
        )
    except UnreadableImageError as error:
        raise HTTPException(
            500, f"The picture of document {row} cannot be shown: {error}"
        ) from error
    shown = io.BytesIO()
    Image.fromarray(pixels).save(shown, "webp")
    kind = Image.MIME["WEBP"]
    return Response(shown.getvalue(), media_type=kind, headers=_HEADERS)


def _missing(folder: pathlib.Path, name: str, row: int) -> HTTPException:
    return HTTPException(
        404,
        f"The picture {references.label(name)} of document {row} is missing in "
        f"{folder}; if the pictures were moved, start the server with "
        "--images=FOLDER.",
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
