"""The training data of a stage, checked before any computation."""

import dataclasses
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import grain
import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from mixer_jax.data.images import augment, checking
from mixer_jax.data.prepared import build, opening
from mixer_jax.data.prepared.version import Prepared
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import category_notes, table
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables.samples import Samples
from mixer_jax.demo import sources
from mixer_jax.proxies import margins
from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.training.config import defaults as config_lib

SKIPPED = "skipped.csv"  # in the workdir
_OPTION = "the config's data.max_skipped"


class Inputs(NamedTuple):
    """The training data of a stage.

    Attributes:
      samples: the usable samples of the training split.
      source: their images and texts.
      tokenizer: the tokenizer of the documents' texts.
      skipped: the samples of the split left out, with reasons.
      origin: the identity of the rows and images; see `identity.describe`.
      content: hash of the rows and of the images' bytes; "" if unknown.
      warnings: messages about suspicious categories.
      prepared: the prepared samples, if there are any.
    """

    samples: Samples
    source: pipeline.Source
    tokenizer: text.Tokenizer
    skipped: tuple[table.Skipped, ...] = ()
    origin: Mapping[str, Any] = types.MappingProxyType({})
    content: str = ""
    warnings: tuple[str, ...] = ()
    prepared: Prepared | None = None


def load(
    data: ConfigDict,
    workdir: str | os.PathLike = "",
    option: str = _OPTION,
    *,
    prepare: bool = False,
    say: build.Say | None = None,
) -> Inputs:
    """Opens the samples and the tokenizer of a stage.

    A missing table is built from `data.source`. The table is read and its
    images are decoded only if the samples have not been prepared yet. Samples
    with unreadable images and categories with a single sample are dropped, up
    to a share of `data.max_skipped` each.

    Args:
      data: the config's `data` section.
      workdir: the folder for `skipped.csv`, which lists unreadable images, if
        any; "" for no list.
      option: the option that sets `data.max_skipped`, for the error message.
      prepare: whether to prepare the samples; see `build.prepare`.
      say: called with messages while they are prepared; prints to standard
        error by default.

    Raises:
      UserError: if the data are invalid; names the file, row and column.
    """
    tokenizer = text.load(data.tokenizer, data.text_length)
    path = sources.ensure_table(data)
    opened = opening.open_table(
        path,
        data.split,
        data.prepared,
        options=build.Options(
            max_pixels=data.max_pixels,
            workers=data.workers,
            image_roots=data.image_roots,
        ),
        make=prepare,
        say=say,
    )
    if opened is None:
        return _from_files(path, data, workdir, option, tokenizer)
    unreadable, lone = opened.unreadable, opened.lone
    if workdir and opened.listed:
        listing = _keep(paths.make(workdir), opened.listed)
        unreadable = dataclasses.replace(unreadable, listing=listing)
    remedy = checking.remedy(table.folder(path))
    unreadable.require(data.max_skipped, remedy, option)
    lone.require(data.max_skipped, table.LONE_REMEDY, option)
    samples, source = opened.prepared.training()
    manifest = opened.prepared.manifest
    return Inputs(
        samples=samples,
        source=source,
        tokenizer=tokenizer,
        skipped=tuple(s for s in (unreadable, lone) if s.count),
        origin=manifest["origin"],
        content=manifest["content"],
        warnings=tuple(manifest["warnings"]),
        prepared=opened.prepared,
    )


def _from_files(
    path: str | os.PathLike,
    data: ConfigDict,
    workdir: str | os.PathLike,
    option: str,
    tokenizer: text.Tokenizer,
) -> Inputs:
    """Returns inputs that read the image files, without preparing them."""
    whole = table.select(table.read_table(path, data.image_roots), data.split)
    frame, skipped = read_usable(whole, path, data, workdir, option)
    root = table.folder(path)
    split = identity.examine(whole, root)
    samples = samples_lib.from_frame(frame)
    return Inputs(
        samples=samples,
        source=pipeline.FileSource(frame, root),
        tokenizer=tokenizer,
        skipped=skipped,
        origin=identity.describe(split, identity.examine(frame, root, split)),
        warnings=category_notes.notes(frame, samples.category_ids),
    )


def read_usable(
    whole: pd.DataFrame,
    path: str | os.PathLike,
    data: ConfigDict,
    workdir: str | os.PathLike = "",
    option: str = _OPTION,
) -> tuple[pd.DataFrame, tuple[table.Skipped, ...]]:
    """Returns the usable rows of a split, and descriptions of the others.

    Args:
      whole: the rows of the split; all of their images are decoded.
      path: the path of the table.
      data: the config's `data` section.
      workdir: see `load`.
      option: see `load`.

    Raises:
      UserError: if the share of unusable rows exceeds `data.max_skipped`.
    """

    def keep(listed: pd.DataFrame) -> str:
        return _keep(paths.make(workdir), tables.csv_text(listed))

    frame, unreadable = checking.check_images(
        whole,
        table.folder(path),
        data.max_skipped,
        max_pixels=data.max_pixels,
        option=option,
        pixels_option="data.max_pixels",
        keep=keep if workdir else None,
    )
    frame, lone = table.drop_lone(frame, data.max_skipped, option=option)
    return frame, tuple(s for s in (unreadable, lone) if s.count)


def _keep(workdir: paths.Path, listed: str) -> str:
    """Writes a list of unreadable images to a workdir; returns its path."""
    path = workdir / SKIPPED
    if jax.process_index() == 0:
        try:
            paths.make_folder(workdir)
            paths.write(path, listed)
        except UserError:  # such as a LostError
            raise
        except paths.failures() as error:
            raise UserError(
                f"The workdir {workdir} cannot be written to: "
                f"{paths.reason(error)}. Choose another --workdir."
            ) from error
    return str(path)


class Content(Protocol):
    """A stage's samples as arrays: decoded images, or stored features.

    Attributes:
      content: the hash of the rows and of the images' bytes.
    """

    content: str

    def train_batches(self) -> grain.DatasetIterator:
        """Returns this process's endless training batches."""

    def evaluation_batches(
        self, role: str, batch_size: int, rows: np.ndarray
    ) -> Iterator[dict]:
        """Yields batches of the given rows of one role; see `pipeline`.

        Args:
          role: "query" or "document".
          batch_size: B, the number of samples over all processes.
          rows: int, positions of samples; those of other roles are skipped.
        """


class Pictures:
    """The samples' images and texts, read and decoded for every batch."""

    def __init__(
        self,
        inputs: Inputs,
        config: ConfigDict,
        vectors: pipeline.Vectors | None = None,
    ):
        """Stores the samples, the config, and stored token vectors, if any."""
        self._inputs, self._config, self._vectors = inputs, config, vectors
        self.content = inputs.content

    def train_batches(self) -> grain.DatasetIterator:
        """Returns this process's endless training batches."""
        inputs, config = self._inputs, self._config
        return pipeline.train_batches(
            inputs.samples,
            inputs.source,
            inputs.tokenizer,
            vectors=self._vectors,
            image_size=config.data.image_size,
            batch_size=config.batch_size,
            augment=augment.change(
                config.data.augment, config.data.augment_changes
            ),
            sampling=config_lib.sampling(config.data),
            seed=config.seed,
            threads=config.data.threads,
            workers=config.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def evaluation_batches(
        self, role: str, batch_size: int, rows: np.ndarray
    ) -> Iterator[dict]:
        """Returns batches of the given rows of one role; see `Content`."""
        return pipeline.evaluation_batches(
            self._inputs.source,
            role,
            self._inputs.tokenizer,
            vectors=self._vectors,
            image_size=self._config.data.image_size,
            batch_size=batch_size,
            rows=self._inputs.samples.select(rows, role),
            threads=self._config.data.threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def margin_sizes(inputs: Inputs, head: ConfigDict) -> np.ndarray | None:
    """Returns each category's margin size, f32 `[C]`; None if all are equal.

    Args:
      inputs: the data whose samples are counted.
      head: the config's `head` section.
    """
    if not head.margin_power:
        return None
    counts = np.zeros(inputs.samples.num_categories, np.int64)
    for role in samples_lib.ROLES:
        counts += inputs.samples.counts(role)
    return margins.by_frequency(counts, head.margin_size, head.margin_power)


def add_margins(batch: dict, sizes: np.ndarray | None) -> dict:
    """Returns a batch with each sample's `margin`, f32 `[B]`, in both roles."""
    if sizes is None:
        return batch
    return {
        role: part | {"margin": sizes[part["label"]]}
        for role, part in batch.items()
    }


def describe(inputs: Inputs) -> dict[str, Any]:
    """Returns counts of queries, documents, categories and skipped rows."""
    samples = inputs.samples
    return {
        "queries": len(samples.of_role(table.QUERY)),
        "documents": len(samples.of_role(table.DOCUMENT)),
        "categories": samples.num_categories,
        "skipped": sum(s.count for s in inputs.skipped),
    }
