"""Features of all that a log shows, kept on disk: encoding takes most time."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.categories.graph import Features
from mixer_jax.categories.log import ClickLog
from mixer_jax.runtime import files, progress

_PART = 16384  # images or texts that are kept at once: a minute or two


def encode(
    log: ClickLog,
    path: str | Path,
    encoders: str,
    encode_images: Callable[[Sequence[str]], np.ndarray],
    encode_texts: Callable[[Sequence[str]], np.ndarray],
) -> Features:
    """Encodes a log's images and texts, or reads what was kept of last time.

    What is encoded is kept part by part; if interrupted, it goes on from there.

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
    parts = path.with_name(f".{path.name}.parts")
    begun = parts / key
    for other in parts.glob("*"):
        if other != begun:
            shutil.rmtree(other)
    files.make_folder(begun)
    image = _where_known(images, encode_images, begun / "images")
    text = _where_known(texts, encode_texts, begun / "texts")
    _replace(path, key=np.array(key), image=image, text=text)
    shutil.rmtree(parts)
    return _features(image, text, len(log.queries))


def _replace(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file that is there whole or not at all."""

    def save_arrays(draft: Path) -> None:
        with open(draft, "wb") as file:
            np.savez(file, **arrays)

    files.write(path, save_arrays)


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
    values: Sequence[str],
    encoder: Callable[[Sequence[str]], np.ndarray],
    parts: Path,
) -> np.ndarray:
    """Encodes the values that are not ""; the others' rows are zeros.

    Args:
      values: N paths or texts; equal ones are encoded once.
      encoder: n of them -> `[n, C]` float.
      parts: files of this name and a number keep what was encoded.
    """
    values = np.array(values, object)
    known = values != ""
    if not known.any():
        return np.zeros((len(values), 1), np.float32)
    which, different = pd.factorize(values[known])
    encoded = []
    with progress.show(f"Encoding {parts.name}", len(different)) as count:
        for start in range(0, len(different), _PART):
            part = parts.with_name(f"{parts.name}-{start}.npz")
            these = different[start : start + _PART].tolist()
            if not part.is_file():
                _replace(part, encoded=encoder(these))
            with np.load(part) as kept:
                encoded.append(kept["encoded"])
            count(len(these))
    encoded = np.concatenate(encoded)
    rows = np.zeros((len(values), encoded.shape[1]), np.float32)
    rows[known] = encoded[which]
    return rows


def _features(image: np.ndarray, text: np.ndarray, queries: int) -> Features:
    return Features(image[:queries], image[queries:], text)
