"""Reads rows of a sample table as batches of arrays, with Grain.

Training reads two streams, queries and documents, in the order of `sampling`.
Each stream is endless and divided into global batches. A process reads one
block of each batch. Concatenated in process order, the blocks form the same
global batch, row by row, for any number of processes, threads or worker
processes. The position in the streams is therefore the only state.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
import pandas as pd
from grain.experimental import ZipMapDataset

from mixer_jax.data.images import augment as augmentation
from mixer_jax.data.images import decoding, squares
from mixer_jax.data.stream import sampling as sampling_lib
from mixer_jax.data.stream import workers as workers_lib
from mixer_jax.data.stream.sampling import Sampling
from mixer_jax.data.stream.text import Tokenizer
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables import table
from mixer_jax.data.tables.samples import Samples
from mixer_jax.runtime.errors import UserError

_BUFFER = 2  # batches read ahead, in addition to one per thread


Decode = Callable[[int, bytes, int], np.ndarray | None]


class Source(Protocol):
    """Contents of samples, by position."""

    def __len__(self) -> int:
        """Returns the number of rows."""

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        """Returns the encoded image, b"" if there is none, and the text."""

    def text(self, row: int) -> str:
        """Returns the text."""

    def name(self, row: int) -> str:
        """Returns the name of a row's image for error messages."""


class FileSource:
    """Source that reads a frame's image files."""

    def __init__(self, frame: pd.DataFrame, root: str | os.PathLike):
        """Initializes the source; image paths are relative to `root`."""
        self._root = Path(root)
        self._images = frame["image"].tolist()
        self._texts = frame["text"].tolist()

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        """Returns a row's encoded image, b"" if there is none, and its text.

        Raises:
          UnreadableImageError: if the file cannot be read.
        """
        path = self._images[row]
        content = decoding.read(self._root / path) if path else b""
        return content, self._texts[row]

    def text(self, row: int) -> str:
        """Returns a row's text."""
        return self._texts[row]

    def name(self, row: int) -> str:
        """Returns the path of a row's image."""
        return self._images[row]


class Vectors(Protocol):
    """Stored outputs of a text encoder, which replace tokens."""

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `token_vectors` and `token_mask`; row -1 has no text."""


def train_batches(
    samples: Samples,
    source: Source,
    tokenizer: Tokenizer,
    *,
    vectors: Vectors | None = None,
    image_size: int,
    augment: str | augmentation.Strength = "strong",
    **stream: Any,
) -> grain.DatasetIterator:
    """Returns the endless training batches of one process.

    Args:
      samples: the training samples; both roles must occur.
      source: the content of the samples.
      tokenizer: the tokenizer of the documents' texts.
      vectors: replaces `tokens` by `token_vectors`, if given.
      image_size: S, the side of the square images in pixels.
      augment: the strength of augmentation, see `augment.NAMES`.
      **stream: `batch_size` and the other keyword arguments of `train_stream`,
        except `random`.

    Returns:
      An iterator with `get_state()` (a small JSON-able dict) and
      `set_state(state)`. Bh below is B / 2 / n, with the batch size B and the
      number of processes n:
      `{"query": {"image" uint8 [Bh, S, S, 3], "label" int32 [Bh]},
      "document": {"image" uint8 [Bh, S, S, 3], "has_image" bool [Bh],
      "tokens" int32 [Bh, L], "token_mask" bool [Bh, L], "label" int32 [Bh]}}`.

    Raises:
      UserError: if the batch cannot be divided or sampled as requested, a role
        has no sample, or the strength of augmentation is unknown.
    """
    if augment != "none":
        augment = augmentation.get_strength(augment)

    def load(row, role, rng):
        sample = _load(source, row, role, image_size)
        if rng is not None:
            pixels = augmentation.augment(sample["image"], rng, augment)
            sample["image"] = pixels
        return sample

    return train_stream(
        samples,
        load,
        lambda samples: _stack(samples, tokenizer, vectors),
        random=augment != "none",
        **stream,
    )


def train_stream(
    samples: Samples,
    load: Callable[[int, str, np.random.Generator | None], dict],
    stack: Callable[[Sequence[dict]], dict],
    *,
    batch_size: int,
    random: bool = True,
    sampling: Sampling = sampling_lib.EACH,
    seed: int = 0,
    threads: int = 2,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns endless training batches of the samples that `load` returns.

    Args:
      samples: the training samples; both roles must occur.
      load: maps (row, role, rng) to a sample without its label.
      stack: maps the samples of one role to their batch.
      batch_size: B, over all processes; half queries, half documents.
      random: whether `load` needs a random generator; otherwise, rng is None.
      sampling: how samples are drawn.
      seed: the only source of randomness.
      threads: number of loading threads; 0 to load in the calling thread.
      workers: number of processes that load instead of threads, or 0. Each gets
        a copy of `load`, `stack` and the data that they refer to.
      process_index: the index of this process.
      process_count: n, the number of processes that read together.

    Returns:
      An iterator like that of `train_batches`, over
      `{"query": batch, "document": batch}`.

    Raises:
      UserError: if the batch cannot be divided or sampled as requested, or a
        role has no sample.
    """
    if batch_size < 1 or batch_size % (2 * process_count):
        raise UserError(
            f"batch_size is {batch_size}; it must be a multiple of "
            f"{2 * process_count}: queries and documents for each of "
            f"{process_count} process(es)."
        )
    local = batch_size // 2 // process_count
    for role in samples_lib.ROLES:
        if not samples.of_role(role).size:
            raise UserError(f"There is no {role} to train on.")
    streams = []
    drawn = sampling_lib.streams(sampling, samples, batch_size, seed)
    for role, stream in drawn.items():

        def labeled(row, rng=None, role=role):
            return load(row, role, rng) | {"label": samples.labels[row]}

        stream = stream.random_map(labeled) if random else stream.map(labeled)
        stream = _block(stream, batch_size // 2, process_index, process_count)
        streams.append(stream.batch(local, drop_remainder=True, batch_fn=stack))
    batches = ZipMapDataset(streams).map(
        lambda pair: {"query": pair[0], "document": pair[1]}
    )
    if workers:
        return workers_lib.WorkerBatches(batches, workers)
    return iter(batches.to_iter_dataset(_read_options(threads)))


def evaluation_batches(
    source: Source,
    role: str,
    tokenizer: Tokenizer,
    *,
    vectors: Vectors | None = None,
    decode: Decode | None = None,
    image_size: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Returns samples of one role once, in order, in padded batches.

    Args:
      source: the content of samples.
      role: "query" or "document", the role of all samples to read.
      tokenizer: the tokenizer of the documents' texts.
      vectors: see `train_batches`.
      decode: maps a row, its encoded image and S to pixels, or to None to treat
        the row as one without an image. By default, the first image that
        cannot be decoded raises an error.
      image_size: S, the side of the square images in pixels.
      batch_size: B, over all processes.
      rows: int, positions of the samples to read; None for all.
      threads: number of decoding threads; 0 to decode in the calling thread.
      process_index: the index of this process.
      process_count: n, the number of processes that read together. All get the
        same number of batches; concatenated, their rows are in order.

    Returns:
      Batches of one role, as in training but without labels:
      `{role: {...}, "mask" bool [B / n], "index" int32 [B / n]}`. `mask` is
      False on padding; `index` is the position in `source`, -1 on padding.

    Raises:
      UserError: if the batch cannot be divided among the processes.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"The batch size {batch_size} must be a multiple of the number "
            f"of processes, {process_count}."
        )
    rows = np.arange(len(source)) if rows is None else rows
    rows = np.pad(rows, (0, -len(rows) % batch_size), constant_values=-1)
    if not rows.size:
        return iter(())

    def load(row):
        sample = _load(source, row, role, image_size, decode)
        return sample | {"index": np.int32(row)}

    def stack(samples):
        index = np.stack([sample.pop("index") for sample in samples])
        batch = _stack(samples, tokenizer, vectors)
        return {role: batch, "mask": index >= 0, "index": index}

    samples = sampling_lib.Places(rows).map(load)
    return iter(
        _block(samples, batch_size, process_index, process_count)
        .batch(batch_size // process_count, batch_fn=stack)
        .to_iter_dataset(_read_options(threads))
    )


def _block(
    dataset: grain.MapDataset, batch_size: int, index: int, count: int
) -> grain.MapDataset:
    """Returns one process's block of each global batch, in order.

    Args:
      dataset: a dataset in which `batch_size` elements form a global batch.
      batch_size: a multiple of `count`.
      index: the index of the block.
      count: the number of blocks per batch.
    """
    if count == 1:
        return dataset
    size = batch_size // count

    def element(place: int) -> Any:
        return dataset[place // size * batch_size + index * size + place % size]

    return grain.MapDataset.range(len(dataset) // count).map(element)


def _load(
    source: Source,
    row: int,
    role: str,
    size: int,
    decode: Decode | None = None,
) -> dict:
    """Returns one row's sample; row -1 is padding, without image or text."""
    content, text = source[row] if row >= 0 else (b"", "")
    pixels = None
    if content and decode is not None:
        pixels = decode(row, content, size)
    elif content:
        pixels = _decode(source, row, content, size)
    sample = {"image": squares.blank(size) if pixels is None else pixels}
    if role == table.DOCUMENT:
        sample["has_image"] = np.bool_(pixels is not None)
        sample |= {"text": text, "row": row}
    return sample


def _decode(source: Source, row: int, content: bytes, size: int) -> np.ndarray:
    try:
        # The pixel limit was applied when the files were checked.
        return decoding.decode(content, size, None)
    except decoding.UnreadableImageError as error:
        raise decoding.UnreadableImageError(
            f"{source.name(row)}: {error}", error.kind
        ) from error


def _stack(
    samples: Sequence[dict], tokenizer: Tokenizer, vectors: Vectors | None
) -> dict:
    """Stacks samples into a batch; texts become tokens or token vectors."""
    batch = {
        name: np.stack([sample[name] for sample in samples])
        for name in samples[0]
        if name not in ("text", "row")
    }
    if "text" not in samples[0]:
        return batch
    if vectors is not None:
        return batch | vectors.read(np.array([s["row"] for s in samples]))
    tokens, mask = tokenizer([sample["text"] for sample in samples])
    return batch | {"tokens": tokens, "token_mask": mask}


def _read_options(threads: int) -> grain.ReadOptions:
    buffer = threads + _BUFFER if threads else 0
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
