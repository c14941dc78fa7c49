"""Python interface to trained and zero-shot models."""

import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax.data.images import pictures, squares
from mixer_jax.data.stream import text
from mixer_jax.data.tables import table
from mixer_jax.models import explanations
from mixer_jax.retrieval import (
    bundle,
    documents,
    embed,
    evaluate,
    rows_file,
    runs,
)
from mixer_jax.retrieval.calibration import Calibration
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint.checkpoints import Trained

Batch = dict[str, np.ndarray]
METRICS = "metrics.json"


class Model:
    """Embeds queries and documents into one space, as unit vectors.

    Attributes:
      config: the training config of the model.
      dim: D, the length of an embedding.
      image_size: S; pictures are scaled to S x S pixels.
      fingerprint: equal for models that give equal embeddings.
      ignores_text: the reason why texts are ignored; "" if they are used.
    """

    def __init__(
        self,
        trained: Trained,
        mesh: Mesh | None = None,
        *,
        ignores_text: str = "",
    ):
        """Puts the variables on the devices of `mesh`, by default all."""
        self._mesh = mesh or mesh_lib.make_mesh()
        self._trained = trained
        self._tokenizer = text.load(
            trained.config.data.tokenizer, trained.config.data.text_length
        )
        self._variables = jax.device_put(
            trained.variables, mesh_lib.replicated(self._mesh)
        )
        self._encode = {
            role: jax.jit(
                functools.partial(trained.model.apply, method=f"encode_{role}"),
                out_shardings=mesh_lib.replicated(self._mesh),
            )
            for role in (table.QUERY, table.DOCUMENT)
        }
        self._explain = explanations.Explainer(
            trained.model, self._variables, self._mesh, config=trained.config
        )
        fusion = trained.config.model.fusion
        if not ignores_text and not documents.uses_text(fusion):
            ignores_text = f"its fusion, {fusion!r}, does not use text"
        self.ignores_text = ignores_text

    def __repr__(self) -> str:
        """Returns a summary of encoders and sizes."""
        model = self.config.model
        text_encoder = None if self.ignores_text else model.text.name
        return (
            f"Model(image={model.image.name!r}, text={text_encoder!r}, "
            f"dim={self.dim}, image_size={self.image_size})"
        )

    @property
    def config(self) -> Any:
        """The training config of the model."""
        return self._trained.config

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return self.config.model.dim

    @property
    def image_size(self) -> int:
        """S; pictures are scaled to S x S pixels."""
        return self.config.data.image_size

    @property
    def step(self) -> int:
        """The number of training steps."""
        return self._trained.step

    @property
    def calibration(self) -> Calibration | None:
        """Maps cosines to probabilities; None unless a bundle has one."""
        return self._trained.calibration

    @property
    def fingerprint(self) -> str:
        """A hash of weights, tokenizer and architecture."""
        return bundle.fingerprint(self._trained)

    def embed_queries(
        self,
        images: Sequence[pictures.Picture],
        *,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Embeds query pictures.

        Args:
          images: N pictures: paths, bytes of image files, PIL images, or
            arrays; see `data.images.pictures.to_pixels`.
          batch_size: the maximum number of pictures embedded at once.

        Returns:
          f32 `[N, D]`, unit rows, in the order of `images`.

        Raises:
          UserError: if a picture cannot be read; the message names the first.
        """
        given = pictures.check_list(images, "images")
        missing = [row for row, one in enumerate(given) if one is None]
        if missing:
            raise UserError(
                f"images[{missing[0]}] is None, but a query needs a picture."
            )

        def load(rows: slice) -> Batch:
            return {"image": self._load_pixels(given[rows], rows.start)}

        return self._embed(table.QUERY, len(given), load, batch_size)

    def embed_documents(
        self,
        images: Sequence[pictures.Picture | None] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Embeds documents, each a picture, a text or both.

        Args:
          images: N pictures as in `embed_queries`, with None for a document
            without a picture; or None if no document has a picture.
          texts: N texts, with None or "" for a document without a text; or None
            if no document has a text.
          batch_size: the maximum number of documents embedded at once.

        Returns:
          f32 `[N, D]`, unit rows, in the given order.

        Raises:
          UserError: if a document cannot be embedded; the message names the
            first.
        """
        pairs = documents.align(images, texts)
        if self.ignores_text:
            documents.require_images(*pairs, self.ignores_text)
            pairs = pairs[0], [""] * len(pairs[1])
        documents.require_content(*pairs)
        some_images, some_texts = pairs

        def load(rows: slice) -> Batch:
            part = some_images[rows]
            pixels = self._load_pixels(part, rows.start)
            has_image = np.array([one is not None for one in part])
            return self._document_batch(pixels, has_image, some_texts[rows])

        return self._embed(table.DOCUMENT, len(some_images), load, batch_size)

    def embed_pixels(
        self,
        pixels: np.ndarray,
        texts: Sequence[str] | None = None,
        *,
        has_image: np.ndarray | None = None,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Embeds decoded pictures, as queries, or with texts as documents.

        Args:
          pixels: uint8 `[N, S, S, 3]`; see `data.images.decoding.decode`.
          texts: N texts, "" for none; None for queries.
          has_image: bool `[N]`, False for documents without a picture; by
            default, all have one.
          batch_size: the maximum number embedded at once. Smaller batches are
            padded to powers of two, so that few programs are compiled.

        Returns:
          f32 `[N, D]`, unit rows.
        """
        if has_image is None:
            has_image = np.ones(len(pixels), bool)

        def load(rows: slice) -> Batch:
            if texts is None:
                return {"image": pixels[rows]}
            some = list(texts[rows])
            return self._document_batch(pixels[rows], has_image[rows], some)

        role = table.QUERY if texts is None else table.DOCUMENT
        return self._embed(role, len(pixels), load, batch_size)

    def explain(
        self, image: pictures.Picture | None, text: str = ""
    ) -> explanations.Explanation:
        """Explains the embedding of a document; see `Explanation`.

        Args:
          image: a picture as in `embed_queries`, or None.
          text: the text; "" for none.

        Raises:
          UserError: if the model ignores texts, or the picture is unreadable.
        """
        if self.ignores_text:
            raise UserError(
                "This model's embeddings cannot be explained: "
                f"{self.ignores_text}."
            )
        limits = self.image_size, self.config.data.max_pixels
        pixels = None if image is None else pictures.to_pixels(image, *limits)
        return self._explain(pixels, text, self._tokenizer)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Returns the total number of tokens in texts, after truncation."""
        return int(self._tokenizer(list(texts))[1].sum())

    def evaluate(
        self,
        path: str | os.PathLike,
        *,
        split: str | None = None,
        distractors: str | None = None,
        max_skipped: float | None = None,
    ) -> list[dict[str, Any]]:
        """Evaluates query-to-document retrieval on a sample table.

        Args:
          path: the sample table.
          split: the split to measure, with its parts; by default the config's,
            "test".
          distractors: the split whose documents join the gallery; "" for none;
            by default the config's, "train".
          max_skipped: the maximum share of unreadable pictures; by default the
            config's.

        Returns:
          One row per part and gallery: `identical_at_1`, `identical_at_5`,
          `relevance_at_1`, `map`, `map_at_r` and `mrr`, from 0 to 1,
          counts, and a calibration; see `retrieval.evaluate`.

        Raises:
          UserError: if the table is missing or invalid, or the split has no
            query with a document of its category.
        """
        data = self.config.data
        settings = self.config.evaluate.copy_and_resolve_references()
        if split is not None:
            settings.split = split
        if distractors is not None:
            settings.distractors = distractors
        limit = data.max_skipped if max_skipped is None else max_skipped
        path = pathlib.Path(path)
        frame, skipped = evaluate.read(
            *(path, settings, limit, data.max_pixels),
            image_roots=data.image_roots,
        )
        for kind in skipped:
            warnings.warn(f"{path}: {kind}", stacklevel=2)
        embedder = embed.make_embedder(
            self._trained, path.parent, self._mesh, settings.batch_size
        )
        return evaluate.evaluate(
            *(embedder, frame, path.parent, settings, self._mesh),
            *(runs.OURS, self.config.name),
            step=self.step,
        )

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the model as a bundle, which `load` reads; see `bundle`."""
        bundle.write(self._trained, folder)

    def _document_batch(
        self, pixels: np.ndarray, has_image: np.ndarray, texts: list[str]
    ) -> Batch:
        tokens, mask = self._tokenizer(texts)
        arrays = {"tokens": tokens, "token_mask": mask}
        return {"image": pixels, "has_image": has_image} | arrays

    def _load_pixels(self, images: Sequence, start: int) -> np.ndarray:
        """Decodes pictures in threads: uint8 `[N, S, S, 3]`, white for None."""

        def load(row: int) -> np.ndarray:
            if images[row] is None:
                return squares.blank(self.image_size)
            try:
                return pictures.to_pixels(
                    images[row], self.image_size, self.config.data.max_pixels
                )
            except UserError as error:
                raise UserError(f"images[{start + row}]: {error}") from error

        with threads_lib.pool(max(self.config.data.threads, 1)) as pool:
            return np.stack(list(pool.map(load, range(len(images)))))

    def _embed(
        self,
        role: str,
        count: int,
        load: Callable[[slice], Batch],
        batch_size: int,
    ) -> np.ndarray:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be positive.")

        def batches() -> Iterator[tuple[slice, jax.Array]]:
            for start in range(0, count, batch_size):
                rows = slice(start, min(start + batch_size, count))
                size = _padded_size(rows.stop - start, batch_size, self._mesh)
                batch = mesh_lib.pad_batch(load(rows), size)
                batch = mesh_lib.put_batch(batch, self._mesh)
                yield rows, self._encode[role](self._variables, batch)

        result = np.zeros((count, self.dim), np.float32)
        for rows, embeddings in mesh_lib.one_behind(batches()):
            result[rows] = jax.device_get(embeddings)[: rows.stop - rows.start]
        return result


def load(model: str | os.PathLike, *, mesh: Mesh | None = None) -> Model:
    """Loads a model.

    Args:
      model: a bundle; the workdir of a stage; the workdir of a curriculum, for
        its last stage; or the name of a bundle on the Hugging Face hub.
      mesh: the devices to use, see `runtime.mesh.make_mesh`; by default all.

    Raises:
      UserError: if the model is missing or damaged.
    """
    mesh = mesh or mesh_lib.make_mesh()
    return Model(load_trained(model, mesh), mesh)


def load_trained(model: str | os.PathLike, mesh: Mesh) -> Trained:
    """Loads config, model and variables; see `load`."""
    folder = bundle.find(model)
    if folder is None:
        folder = paths.absolute(runs.find_models(model)[-1].workdir)
    return runs.load(folder, mesh)


def load_measured(
    workdir: str | os.PathLike, mesh: Mesh | None = None
) -> tuple[Trained, list[evaluate.Row]]:
    """Loads the model of a run's last stage, and its evaluation rows.

    Args:
      workdir: the workdir of a stage or a curriculum.
      mesh: the devices to place the variables on; by default all.

    Returns:
      The model, and its rows in metrics.json of the stage and of `workdir`.

    Raises:
      UserError: if the model is missing, or a file is damaged.
    """
    folder = paths.absolute(runs.find_models(workdir)[-1].workdir)
    trained = runs.load(folder, mesh)
    rows = [
        row
        for path in dict.fromkeys((folder, paths.make(workdir)))
        for row in rows_file.merge(path / METRICS, ())
        if row["model"] == runs.OURS and row["stage"] == trained.config.name
    ]
    return trained, rows


def _padded_size(count: int, batch_size: int, mesh: Mesh) -> int:
    """Rounds `count` up to a power of two, so that few shapes are compiled."""
    size = min(1 << (count - 1).bit_length(), batch_size)
    return mesh_lib.padded_rows(size, mesh)
