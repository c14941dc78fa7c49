"""The heads by name."""

import math

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax import mesh as meshes
from mixer_jax.errors import UserError
from mixer_jax.proxies import exact, interface, knn, margins, softmax


def _exact(config, loss, mesh, num_categories, batch_size):
    del config, batch_size
    return exact.Exact(loss, mesh, num_categories)


def _knn(config, loss, mesh, num_categories, batch_size):
    _require(0 < config.active <= 1, "active", config.active, "in (0, 1]")
    _require(0 <= config.uniform <= 1, "uniform", config.uniform, "in [0, 1]")
    _require(config.neighbours > 0, "neighbours", config.neighbours, "above 0")
    rows = meshes.padded_rows(num_categories, mesh) // mesh.size
    active = math.ceil(config.active * rows)
    head = knn.Knn(
        loss,
        mesh,
        num_categories,
        active=active,
        uniform=math.ceil(config.uniform * active),
        neighbours=min(config.neighbours, num_categories - 1),
    )
    head.check(batch_size)
    return head


HEADS = {"exact": _exact, "knn": _knn}


def make_head(
    config: ConfigDict, mesh: Mesh, num_categories: int, batch_size: int
) -> interface.Head:
    """Returns the head that `config`, a run's `config.head`, describes.

    Args:
      config: name, margin, scale and the settings of that head.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
      batch_size: the most embeddings of a step, over all devices.

    Raises:
      UserError: if a name is unknown, a value is out of its range, there are
        fewer than two categories, or the active set is too small to hold
        every positive of a batch.
    """
    if config.name not in HEADS:
        raise UserError(
            f"config.head.name is {config.name!r}; it must be one of "
            f"{', '.join(sorted(HEADS))}."
        )
    if num_categories < 2:
        raise UserError(
            f"There is nothing to tell apart among {num_categories} "
            "categories; training needs two or more."
        )
    _require(config.scale > 0, "scale", config.scale, "above 0")
    _require(config.chunk > 0, "chunk", config.chunk, "above 0")
    margin = margins.make_margin(config.margin, config.margin_size)
    loss = softmax.Loss(margin, config.scale, config.chunk)
    return HEADS[config.name](config, loss, mesh, num_categories, batch_size)


def _require(holds: bool, name: str, value: float, must: str) -> None:
    if not holds:
        raise UserError(f"config.head.{name} is {value}; it must be {must}.")
