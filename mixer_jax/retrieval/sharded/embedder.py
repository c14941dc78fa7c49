"""Embeds the rows of a shard on the devices of this process."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.stream import pipeline, text
from mixer_jax.retrieval.sharded import layout
from mixer_jax.runtime import identity
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.tabular import references
from mixer_jax.training.checkpoint.checkpoints import Trained

_OPTION = "data.max_pixels"  # for messages
_EMPTY = np.zeros(16, np.uint8)  # the digest of an image that cannot be read


class Embedded(NamedTuple):
    """Embeddings of a frame's rows.

    Attributes:
      embeddings: f32 `[N, D]`; undefined for rows that were left out.
      digests: uint8 `[N, 16]`, of the images' bytes; 0 for none.
      skipped: the rows that were left out, in order.
      places: their positions in the frame.
    """

    embeddings: np.ndarray
    digests: np.ndarray
    skipped: tuple[layout.Skipped, ...]
    places: list[int]


class Embedder:
    """Embeds samples on all devices of this process.

    Every device runs the same program on its own rows. The embeddings therefore
    have the same bits for any number of devices and processes.
    """

    def __init__(self, trained: Trained, root: pathlib.Path, device_rows: int):
        """Places the model on the devices.

        Args:
          trained: the model.
          root: the folder that image paths are relative to.
          device_rows: the number of samples per batch and device.
        """
        self._config, self._root = trained.config, root
        self._mesh = mesh_lib.make_mesh(jax.local_devices())
        self._batch_size = device_rows * self._mesh.size
        data = trained.config.data
        self._tokenizer = text.load(data.tokenizer, data.text_length)
        # The restored arrays span the devices of all processes.
        self._variables = jax.device_put(
            jax.device_get(trained.variables), mesh_lib.replicated(self._mesh)
        )
        self._forward = {
            role: self._compile(trained, role) for role in layout.FOLDERS
        }

    def _compile(self, trained: Trained, role: str) -> Callable:
        rows = jax.P(mesh_lib.AXIS)

        def forward(variables: Any, batch: Any) -> jax.Array:
            embeddings = trained.model.apply(
                variables, batch, method=f"encode_{role}"
            )
            return embeddings.astype(jnp.float32)

        return jax.jit(
            jax.shard_map(
                forward,
                mesh=self._mesh,
                in_specs=(jax.P(), rows),
                out_specs=rows,
                check_vma=False,
            )
        )

    def __call__(
        self, frame: pd.DataFrame, role: str, count: Callable[[int], None]
    ) -> Embedded:
        """Embeds a frame's samples, which all have the same role.

        Args:
          frame: columns sample_id, image and text; the index is the row in the
            table.
          role: the role of the samples.
          count: called with the number of samples embedded.
        """
        data = self._config.data
        source = _Source(frame, self._root, data.max_pixels)
        batches = pipeline.evaluation_batches(
            source,
            role,
            self._tokenizer,
            decode=source.decode,
            image_size=data.image_size,
            batch_size=self._batch_size,
            threads=data.threads,
        )
        encoded = (
            (
                self._forward[role](
                    self._variables, mesh_lib.put_batch(batch[role], self._mesh)
                ),
                batch["index"],
            )
            for batch in batches
        )
        result = np.zeros((len(frame), self._config.model.dim), np.float32)
        for embeddings, index in mesh_lib.one_behind(encoded):
            is_row = index >= 0
            result[index[is_row]] = jax.device_get(embeddings)[is_row]
            count(int(is_row.sum()))
        places = sorted(source.errors)
        skipped = tuple(source.skipped(place) for place in places)
        return Embedded(result, source.digests, skipped, places)


class _Source:
    """A source that leaves out images that cannot be decoded."""

    def __init__(self, frame: pd.DataFrame, root: pathlib.Path, limit: int):
        self._files = pipeline.FileSource(frame, root)
        self._frame, self._root, self._limit = frame, root, limit
        self.digests = np.zeros((len(frame), 16), np.uint8)
        self.errors: dict[int, UnreadableImageError] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        try:
            content, text = self._files[row]
        except UnreadableImageError as error:
            self._leave_out(row, error)
            return b"", self._files.text(row)
        if content:
            self.digests[row] = identity.digest(content)
        elif self._files.name(row):
            self.decode(row, content, 1)  # an empty file
        return content, text

    def text(self, row: int) -> str:
        return self._files.text(row)

    def name(self, row: int) -> str:
        return self._files.name(row)

    def decode(self, row: int, content: bytes, size: int) -> np.ndarray | None:
        """Returns an image's pixels, or None after recording an error."""
        try:
            try:
                return decoding.decode(
                    content, size, self._limit, option=_OPTION
                )
            except UnreadableImageError as error:
                if error.kind != faults.TOO_LARGE:
                    raise
            # The limit applies to the reduced size at which JPEGs are checked.
            decoding.check(content, self._limit, option=_OPTION)
            return decoding.decode(content, size, None)
        except UnreadableImageError as error:
            self._leave_out(row, error)
            return None

    def _leave_out(self, row: int, error: UnreadableImageError) -> None:
        # Create a new error: the old traceback keeps the bytes in memory.
        self.errors[row] = UnreadableImageError(str(error), error.kind)

    def skipped(self, row: int) -> layout.Skipped:
        """Describes a row that was left out."""
        error, sample = self.errors[row], self._frame.iloc[row]
        reason = str(error)
        label = references.label(self._root / sample["image"])
        for start in (label, "an image"):
            reason = reason.removeprefix(start)
        return layout.Skipped(
            int(self._frame.index[row]),
            sample["sample_id"],
            sample["image"],
            error.kind,
            reason,
        )


def digests(frame: pd.DataFrame, root: pathlib.Path) -> np.ndarray:
    """Returns the digests of the images of N rows, uint8 `[N, 16]`."""

    def digest(name: str) -> np.ndarray:
        try:
            content = decoding.read(root / name) if name else b""
        except UnreadableImageError:
            content = b""
        return identity.digest(content) if content else _EMPTY

    with threads_lib.pool() as pool:
        found = list(pool.map(digest, frame["image"]))
    return np.array(found, np.uint8).reshape(len(frame), 16)
