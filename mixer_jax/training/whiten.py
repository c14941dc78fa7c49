"""Whitens the towers' maps of the image on pairs of training samples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables.samples import Samples
from mixer_jax.models import whitening
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import progress
from mixer_jax.training.inputs import Content
from mixer_jax.training.setup import Setup

PyTree = Any

NAME = "whitened"  # the value of model.init
PAIRS = 4096  # maximum; limits the time to encode them
_ROUNDS = 8  # of drawing a pair from each category


def whiten(
    setup: Setup,
    content: Content,
    variables: PyTree,
    say: Callable[[str], None],
) -> PyTree:
    """Returns the variables with whitened maps of the image in both towers.

    Args:
      setup: the stage's setup.
      content: the training samples.
      variables: the model's initial variables, replicated; returned unchanged
        if the images of queries do not differ from those of documents of the
        same category, or if there are fewer than two pairs.
      say: called with a message if they are unchanged.
    """
    mesh = setup.mesh
    rows = pairs(setup.inputs.samples, PAIRS, setup.config.seed)
    found = None
    if len(rows[0]):
        moments = _measure(setup, content, variables, rows)
        kernel = variables["params"]["query_layers"]["linear"]["kernel"]
        found = whitening.solve(moments, jax.device_get(kernel))
    if found is None:
        say(
            f"{setup.config.name}: the towers start at random, because "
            f"{NAME!r} needs at least two pairs of a query and a document of "
            "one category that show different images"
        )
        return variables
    # Processes may differ in the last digits: use those of process 0.
    found = whitening.Whitening(*multihost_utils.broadcast_one_to_all(found))
    params = whitening.apply(jax.device_get(variables["params"]), found)
    return jax.device_put(
        {**variables, "params": params}, mesh_lib.replicated(mesh)
    )


def _measure(
    setup: Setup,
    content: Content,
    variables: PyTree,
    rows: tuple[np.ndarray, np.ndarray],
) -> whitening.Moments:
    """Encodes the pairs of `rows`; returns the moments of their encodings."""
    config, mesh = setup.config, setup.mesh
    size = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)

    @functools.partial(
        jax.jit, donate_argnums=1, out_shardings=mesh_lib.replicated(mesh)
    )
    def add(variables, moments, query, document, mask):
        def encode(part: PyTree) -> jax.Array:
            if "patches" in part:
                return part["patches"].mean(1)
            return setup.model.apply(
                variables, part["image"], method="encode_images"
            ).mean(1)

        mask = mask & document["has_image"]
        return whitening.add(moments, encode(query), encode(document), mask)

    kernel = variables["params"]["query_layers"]["linear"]["kernel"]
    moments = jax.device_put(
        whitening.start(len(kernel)), mesh_lib.replicated(mesh)
    )
    streams = [
        content.evaluation_batches(role, size, part)
        for role, part in zip(samples_lib.ROLES, rows, strict=True)
    ]
    label = "Encoding pairs for the towers"
    with progress.show(label, len(rows[0])) as count:
        for query, document in zip(*streams, strict=True):
            part = {
                "query": query["query"],
                "document": document["document"],
                "mask": query["mask"],
            }
            moments = add(variables, moments, **mesh_lib.put_batch(part, mesh))
            count(query["mask"].sum() * jax.process_count())
    return jax.device_get(moments)


def pairs(
    samples: Samples, limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws pairs of a query and a document of the same category.

    Pairs are drawn in rounds of one pair per category. No two pairs show the
    same two images, in whatever role, and no pair shows one image twice or
    lacks one.

    Args:
      samples: the training samples.
      limit: the maximum number of pairs.
      seed: the seed.

    Returns:
      The positions of the queries and of the documents, int64 `[N]` each.
    """
    rng = np.random.default_rng(seed)
    counts = [samples.counts(role) for role in samples_lib.ROLES]
    chosen = rng.permutation(np.flatnonzero(np.minimum(*counts)))[:limit]
    found = np.zeros((2, 0), np.int64)
    for _ in range(_ROUNDS):
        drawn = [
            samples.by_category[first[chosen] + rng.integers(count[chosen])]
            for first, count in zip(samples.begins, counts, strict=True)
        ]
        found = np.concatenate([found, np.stack(drawn)], axis=1)
        images = np.sort(samples.images[found], axis=0)
        _, first = np.unique(images, axis=1, return_index=True)
        kept = np.sort(first)
        first, second = images[:, kept]
        found = found[:, kept[(first >= 0) & (first != second)]]
        if len(found[0]) >= limit:
            break
    query, document = found[:, :limit]
    return query, document
