"""Checks the pictures and texts of documents to embed."""

from collections.abc import Sequence

from mixer_jax.data.images import pictures
from mixer_jax.models import zero_shot
from mixer_jax.models.fusion import FUSIONS
from mixer_jax.runtime.errors import UserError


def align(
    images: Sequence | None, texts: Sequence[str | None] | None
) -> tuple[list, list[str]]:
    """Returns image and text lists of equal length, filling in missing ones.

    Args:
      images: pictures, with None for a missing one; None for no pictures.
      texts: texts, with None for a missing one; None for no texts.

    Raises:
      UserError: if they have different lengths, or a text is not a string.
    """
    if images is None and texts is None:
        raise UserError("Documents need images, texts or both.")
    if isinstance(texts, str):
        raise UserError("texts is a single string; put it in a list.")
    text_list = None if texts is None else list(texts)
    image_list: list = [None] * len(text_list or ())
    if images is not None:
        image_list = list(pictures.check_list(images, "images"))
    if text_list is None:
        return image_list, [""] * len(image_list)
    for row, one in enumerate(text_list):
        if one is not None and not isinstance(one, str):
            raise UserError(
                f"texts[{row}] is a {type(one).__name__}, not a string."
            )
    if len(image_list) != len(text_list):
        raise UserError(
            f"There are {len(image_list)} images but {len(text_list)} texts; "
            "give one of each per document, with None for a missing one."
        )
    return image_list, [one or "" for one in text_list]


def require_content(images: list, texts: list[str]) -> None:
    """Raises a `UserError` if a document has neither a picture nor a text."""
    for row, (image, one) in enumerate(zip(images, texts, strict=True)):
        if image is None and not one.strip():
            raise UserError(f"Document {row} has neither a picture nor a text.")


def uses_text(fusion: str) -> bool:
    """Returns whether a fusion, or a zero-shot model, reads texts."""
    if fusion in zero_shot.NAMES:
        return fusion == zero_shot.CLIP
    return FUSIONS[fusion].uses_text
