"""A stage's data, checked before anything is computed."""

import pathlib
from typing import Any, NamedTuple

import grain
import jax
import pandas as pd
from ml_collections import ConfigDict

from mixer_jax.data import builder, images, pipeline, sources, table, text


class Inputs(NamedTuple):
    """What a stage trains on.

    Attributes:
      frame: rows of the training split that can be trained on.
      root: the folder that their image paths are relative to.
      category_ids: sorted; a label is a position in it.
      tokenizer: of the documents' texts.
      skipped: what was left out of the split, and why.
    """

    frame: pd.DataFrame
    root: pathlib.Path
    category_ids: list[str]
    tokenizer: text.Tokenizer
    skipped: tuple[table.Skipped, ...]


def load(data: ConfigDict) -> Inputs:
    """Reads the table (built where a source can), its images and tokenizer.

    Unreadable images and categories of one sample are left out, up to a share
    of `data.max_skipped` each.

    Args:
      data: the config's part `data`.

    Raises:
      UserError: that names file, row and column of what is wrong.
    """
    path = sources.ensure_table(data)
    tokenizer = text.load(data.tokenizer, data.text_length)
    frame = table.select(table.read_table(path), data.split)
    root = path.parent
    frame, unreadable = images.check_images(frame, root, data.max_skipped)
    frame, lone = table.drop_lone(frame, data.max_skipped)
    return Inputs(
        frame=frame,
        root=root,
        category_ids=table.category_index(frame),
        tokenizer=tokenizer,
        skipped=tuple(s for s in (unreadable, lone) if s.count),
    )


def batches(
    inputs: Inputs, config: ConfigDict
) -> tuple[grain.DatasetIterator, pipeline.Source]:
    """Returns this process's endless training batches, and their source."""
    data = config.data
    source = builder.prepare(inputs.frame, inputs.root, data.prepared)
    iterator = pipeline.train_batches(
        inputs.frame,
        source,
        inputs.category_ids,
        inputs.tokenizer,
        image_size=data.image_size,
        batch_size=config.batch_size,
        augment=data.augment,
        seed=config.seed,
        threads=data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return iterator, source


def describe(inputs: Inputs) -> dict[str, Any]:
    """Returns the counts that a person checks first."""
    roles = inputs.frame["role"].value_counts()
    return {
        "queries": int(roles.get(table.QUERY, 0)),
        "documents": int(roles.get(table.DOCUMENT, 0)),
        "categories": len(inputs.category_ids),
        "skipped": sum(s.count for s in inputs.skipped),
    }
