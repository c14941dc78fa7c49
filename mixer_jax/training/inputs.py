"""The training data of a stage, checked before any computation."""

import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import grain
import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from mixer_jax.data.images import augment, checking
from mixer_jax.data.prepared import build
from mixer_jax.data.prepared.source import PreparedSource
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import table
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
      frame: the usable rows of the training split.
      root: the folder that image paths are relative to.
      category_ids: the sorted ids; a label is a position in this list.
      tokenizer: the tokenizer of the documents' texts.
      skipped: the dropped rows of the split, with reasons.
      data: the identity of `frame`, if known.
      split: the identity of the whole split, if known.
      prepared: the prepared samples of the whole split, if there are any.
      source: those of `frame`, if there are any.
    """

    frame: pd.DataFrame
    root: pathlib.Path
    category_ids: list[str]
    tokenizer: text.Tokenizer
    skipped: tuple[table.Skipped, ...]
    data: identity.Data | None = None
    split: identity.Data | None = None
    prepared: build.Prepared | None = None
    source: PreparedSource | None = None

    def examine(self) -> identity.Data:
        """Returns the identity of `frame`."""
        return self.data or identity.examine(self.frame, self.root)


def load(
    data: ConfigDict,
    workdir: str | os.PathLike = "",
    option: str = _OPTION,
    *,
    prepare: bool = False,
    say: build.Say | None = None,
) -> Inputs:
    """Reads the table and the tokenizer of a stage, and opens its samples.

    A missing table is built from `data.source`. Images are decoded only if the
    samples have not been prepared yet. Samples with unreadable images
    and categories with a single sample are dropped, up to a share of
    `data.max_skipped` each.

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
    keep = functools.partial(_keep, paths.make(workdir)) if workdir else None
    path = sources.ensure_table(data)
    tokenizer = text.load(data.tokenizer, data.text_length)
    whole = table.select(table.read_table(path), data.split)
    root = table.folder(path)
    split = identity.examine(whole, root)
    prepared = _prepared(whole, root, data, split, prepare, say)
    if prepared is None:
        frame, unreadable = checking.check_images(
            whole,
            root,
            data.max_skipped,
            max_pixels=data.max_pixels,
            option=option,
            pixels_option="data.max_pixels",
            keep=keep,
        )
    else:
        rows, errors = prepared.errors(whole, root)
        frame, unreadable = checking.leave_out(
            whole,
            root,
            rows,
            errors,
            data.max_skipped,
            option=option,
            keep=keep,
        )
    frame, lone = table.drop_lone(frame, data.max_skipped, option=option)
    examined = identity.examine(frame, root, split)
    source = None
    if prepared is not None:
        rows = whole.index.get_indexer(frame.index)
        source = prepared.source(examined, rows)
    return Inputs(
        frame=frame,
        root=root,
        category_ids=table.category_index(frame),
        tokenizer=tokenizer,
        skipped=tuple(s for s in (unreadable, lone) if s.count),
        data=examined,
        split=split,
        prepared=prepared,
        source=source,
    )


def _prepared(
    whole: pd.DataFrame,
    root: pathlib.Path,
    data: ConfigDict,
    split: identity.Data,
    prepare: bool,
    say: build.Say | None,
) -> build.Prepared | None:
    """Returns a split's prepared samples; None if there are none."""
    options = build.Options(data.max_pixels, workers=data.workers)
    settings = {"data": split, "options": options}
    if not prepare:
        return build.find(whole, root, data.prepared, **settings)
    return build.prepare(whole, root, data.prepared, **settings, say=say)


def _keep(workdir: paths.Path, listed: pd.DataFrame) -> str:
    """Writes a list of unreadable images to a workdir; returns its path."""
    path = workdir / SKIPPED
    if jax.process_index() == 0:
        try:
            paths.make_folder(workdir)
            paths.write(path, tables.csv_text(listed))
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
          rows: int, positions in the frame; rows of other roles are skipped.
        """


class Pictures:
    """The samples' images and texts, read and decoded for every batch."""

    def __init__(self, inputs: Inputs, config: ConfigDict):
        """Takes inputs whose samples are prepared."""
        self._inputs, self._config = inputs, config
        self._source = inputs.source
        self.content = self._source.content

    def train_batches(self) -> grain.DatasetIterator:
        """Returns this process's endless training batches."""
        inputs, config = self._inputs, self._config
        return pipeline.train_batches(
            inputs.frame,
            self._source,
            inputs.category_ids,
            inputs.tokenizer,
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
            self._inputs.frame,
            self._source,
            role,
            self._inputs.tokenizer,
            image_size=self._config.data.image_size,
            batch_size=batch_size,
            rows=rows,
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
    labels = table.labels(inputs.frame, inputs.category_ids)
    counts = np.bincount(labels, minlength=len(inputs.category_ids))
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
    roles = inputs.frame["role"].value_counts()
    return {
        "queries": int(roles.get(table.QUERY, 0)),
        "documents": int(roles.get(table.DOCUMENT, 0)),
        "categories": len(inputs.category_ids),
        "skipped": sum(s.count for s in inputs.skipped),
    }
