"""Features of images and texts from frozen pretrained encoders."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.categories.click_log import ClickLog
from mixer_jax.categories.evidence import encoding
from mixer_jax.categories.evidence.graph import Features
from mixer_jax.data.images import decoding
from mixer_jax.data.stream import text
from mixer_jax.models import factory
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import processes, progress
from mixer_jax.runtime import threads as threads_lib

_LOG_LENGTH = 32  # tokens per click-log text; longer texts are truncated
_PIECE = 8  # images encoded at a time on CPU


def _batches(count: int, batch_size: int):
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - array.shape[0]
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))


def _in_pieces(function: Callable, batch: jax.Array) -> jax.Array:
    """Applies a function to a batch; on CPU, to a few rows at a time.

    The activations of a few rows stay in the cache; those of a whole batch
    need newly allocated memory in every call.
    """
    if jax.default_backend() != "cpu":
        return function(batch)
    rows = math.gcd(len(batch), _PIECE)
    out = jax.lax.map(function, batch.reshape(-1, rows, *batch.shape[1:]))
    return out.reshape(-1, *out.shape[2:])


@partial(jax.jit, static_argnames=("model", "mesh"))
def _mean_patch(model, mesh, variables, image_BxSxSx3):
    """Returns the mean patch vector of each image, f32 `[B, C]`.

    Every device runs the same program on its own rows, so that the result is
    bitwise identical for any number of devices.
    """

    def encode(variables, image):
        return model.apply(variables, image).astype(jnp.float32).mean(1)

    return jax.shard_map(
        lambda variables, images: _in_pieces(
            partial(encode, variables), images
        ),
        mesh=mesh,
        in_specs=(jax.P(), jax.P(mesh_lib.AXIS)),
        out_specs=jax.P(mesh_lib.AXIS),
        check_vma=False,
    )(variables, image_BxSxSx3)


@partial(jax.jit, static_argnames="model")
def _mean_token(model, variables, token_BxL, mask_BxL):
    """Returns each text's mean token vector, f32 [B, C]; 0 if empty."""
    out_BxLxC = model.apply(variables, token_BxL, mask_BxL)
    weight_BxLx1 = mask_BxL[..., None].astype(jnp.float32)
    total_BxC = (out_BxLxC.astype(jnp.float32) * weight_BxLx1).sum(1)
    return total_BxC / jnp.maximum(weight_BxLx1.sum(1), 1)


def check_encoders(image_encoder: str, text_encoder: str) -> None:
    """Raises a `UserError` unless weights exist for both encoders."""
    factory.check_frozen("image_encoder", image_encoder)
    factory.check_frozen("text_encoder", text_encoder)


def log_features(
    log: ClickLog,
    path: str | Path,
    image_encoder: str,
    text_encoder: str,
    image_size: int,
) -> Features:
    """Encodes the samples of a click log; see `encoding.encode`.

    Args:
      log: the click log.
      path: path of the .npz file that stores the features.
      image_encoder: see `image_features`.
      text_encoder: see `text_features`.
      image_size: side of the scaled square images, in pixels.

    Raises:
      UserError: if an encoder is unknown, an image cannot be read, or the disk
        has too little space.
    """
    work = _encoders(image_encoder, text_encoder, image_size)
    return encoding.encode(log, path, **work)


def share_log_features(
    log: ClickLog,
    path: str | Path,
    image_encoder: str,
    text_encoder: str,
    image_size: int,
) -> Features:
    """Encodes a log's samples in all processes; see `encode_together`.

    Arguments, result and errors are those of `log_features`.
    """
    work = _encoders(image_encoder, text_encoder, image_size)
    encoding.encode_together(log, path, **work)
    shown = None
    if processes.place()[0] == 0:
        shown = encoding.encode(log, path, **work)
    # Process 0 stores the features, which the others then read.
    processes.barrier("features", processes.PATIENCE)
    return encoding.encode(log, path, **work) if shown is None else shown


def _encoders(
    image_encoder: str, text_encoder: str, image_size: int
) -> dict[str, Any]:
    """Returns the keyword arguments of `encoding.encode`."""

    def widths() -> tuple[int, int]:
        images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
        tokens = jnp.zeros((1, 8), jnp.int32)
        return (
            _width("image_encoder", image_encoder, images),
            _width("text_encoder", text_encoder, tokens, tokens > 0),
        )

    return {
        "encoders": f"{image_encoder} {image_size} {text_encoder}",
        "encode_images": lambda paths: image_features(
            image_encoder, paths, image_size
        ),
        "encode_texts": lambda texts: text_features(
            text_encoder, texts, length=_LOG_LENGTH
        ),
        "widths": widths,
    }


def _width(part: str, name: str, *inputs: jax.Array) -> int:
    """Returns the number of elements of an encoder's vectors."""
    model = factory.make_encoder(part, name, batch_norm="frozen")
    key = jax.random.key(0)
    vectors, _ = jax.eval_shape(model.init_with_output, key, *inputs)
    return vectors.shape[-1]


def image_features(
    name: str,
    paths: Sequence[str | Path],
    size: int,
    batch_size: int = 128,
    threads: int = 2,
) -> np.ndarray:
    """Returns the mean patch vector of each image.

    Args:
      name: name of a pretrained image encoder, such as "efficientnet-lite0".
      paths: paths of the image files.
      size: side of the encoder's square input images, in pixels.
      batch_size: number of images per batch and device; all devices of this
        process are used.
      threads: number of threads that decode images while the encoder runs.

    Returns:
      f32 [N, C], not normalized.

    Raises:
      UserError: if the name is unknown or an image cannot be read.
    """
    model, variables = factory.pretrained_image_encoder(name, size)
    batches = max(-(-len(paths) // batch_size), 1)
    mesh = mesh_lib.make_mesh(jax.local_devices()[:batches])
    variables = jax.device_put(variables, mesh_lib.replicated(mesh))
    batch_size *= mesh.size
    features = []
    with (
        threads_lib.pool(threads) as pool,
        progress.show("Encoding images", len(paths)) as count,
    ):

        def decode(rows):
            return [pool.submit(decoding.decode, p, size) for p in paths[rows]]

        slices = list(_batches(len(paths), batch_size))
        pending = [decode(rows) for rows in slices[:1]]
        for step, rows in enumerate(slices):
            batch = np.stack([future.result() for future in pending.pop()])
            pending += [decode(rows) for rows in slices[step + 1 : step + 2]]
            images = jax.device_put(
                _padded(batch, batch_size), mesh_lib.rows(mesh)
            )
            encoded = _mean_patch(model, mesh, variables, images)
            features.append(np.asarray(encoded)[: len(batch)])
            count(len(batch))
    if not features:
        return np.zeros((0, 0), np.float32)
    return np.concatenate(features)


def text_features(
    name: str, texts: Sequence[str], length: int, batch_size: int = 256
) -> np.ndarray:
    """Returns the mean token vector of each text; 0 for an empty text.

    Args:
      name: name of a pretrained text encoder, such as "minilm", and of its
        tokenizer.
      texts: the texts.
      length: maximum number of tokens; longer texts are truncated.
      batch_size: number of texts per batch.

    Returns:
      f32 [N, Ct], not normalized.

    Raises:
      UserError: if the name is unknown.
    """
    model, variables = factory.pretrained_text_encoder(name)
    if not len(texts):
        return np.zeros((0, 0), np.float32)
    unique, inverse = np.unique(np.asarray(texts), return_inverse=True)
    tokens, mask = text.load(name, length)(unique.tolist())

    # Batch texts of similar length to minimize padding.
    lengths = mask.sum(1)
    order = np.argsort(lengths, kind="stable")
    features = []
    with progress.show("Encoding texts", len(order)) as count:
        for rows in _batches(len(order), batch_size):
            batch = order[rows]
            longest = max(8, -(-int(lengths[batch].max()) // 8) * 8)
            part = (
                _padded(x[batch, :longest], batch_size) for x in (tokens, mask)
            )
            encoded = _mean_token(model, variables, *part)
            features.append(np.asarray(encoded)[: len(batch)])
            count(len(batch))
    encoded = np.concatenate(features)
    encoded[order] = encoded.copy()
    return encoded[inverse]
