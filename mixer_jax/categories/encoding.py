"""Features of all that a log shows, kept on disk: encoding takes most time."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mixer_jax.categories.graph import Features
from mixer_jax.categories.log import ClickLog


def encode(
    log: ClickLog,
    path: str | Path,
    encoders: str,
    encode_images: Callable[[Sequence[str]], np.ndarray],
    encode_texts: Callable[[Sequence[str]], np.ndarray],
) -> Features:
    """Encodes a log's images and texts, or reads what was kept of last time.

    Args:
      log: whose samples are encoded.
      path: the .npz file that keeps the features; one made of other samples or
        by other encoders is replaced.
      encoders: names the encoders and their settings.
      encode_images: image paths -> `[N, C]` float.
      encode_texts: texts -> `[N, T]` float.
    """
    path = Path(path)
    images = [*log.queries["image"], *log.items["image"]]
    texts = log.items["text"].tolist()
    key = fingerprint([encoders, *texts], images)
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["key"]) == key:
                return _features(kept["image"], kept["text"], len(log.queries))
    image = _where_known(images, encode_images)
    text = _where_known(texts, encode_texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(partial, key=np.array(key), image=image, text=text)
    os.replace(partial, path)
    return _features(image, text, len(log.queries))


def fingerprint(parts: Sequence[str], images: Sequence[str]) -> str:
    """A hash of texts and of image files by name, size and time of change."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for image in images:
        status = os.stat(image) if image else None
        stamp = (status.st_size, status.st_mtime_ns) if status else ""
        digest.update(f"{image}\0{stamp}\0".encode())
    return digest.hexdigest()


def _where_known(
    values: Sequence[str], encoder: Callable[[Sequence[str]], np.ndarray]
) -> np.ndarray:
    """Encodes the values that are not ""; the others' rows are zeros."""
    known = np.array([bool(value) for value in values])
    if not known.any():
        return np.zeros((len(values), 1), np.float32)
    encoded = encoder([value for value in values if value])
    rows = np.zeros((len(values), encoded.shape[1]), np.float32)
    rows[known] = encoded
    return rows


def _features(image: np.ndarray, text: np.ndarray, queries: int) -> Features:
    return Features(image[:queries], image[queries:], text)
