"""Construction of heads by name."""

import functools
import math
from collections.abc import Callable

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.proxies import interface, margins, softmax
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.heads.exact import Exact
from mixer_jax.proxies.heads.knn import Knn
from mixer_jax.proxies.heads.sampled import Sampled
from mixer_jax.proxies.heads.topk import TopK
from mixer_jax.runtime.errors import UserError


def _exact(config, loss, mesh, num_categories):
    del config
    return Exact(loss, mesh, num_categories)


def _knn(config, loss, mesh, num_categories):
    _check_products(config.graph_products, "graph_products")
    return _active(
        Knn,
        config,
        loss,
        mesh,
        num_categories,
        neighbors=_neighbors(config, num_categories),
        graph_products=config.graph_products,
    )


def _topk(config, loss, mesh, num_categories):
    return _active(
        TopK,
        config,
        loss,
        mesh,
        num_categories,
        neighbors=_neighbors(config, num_categories),
    )


def _active(kind, config, loss, mesh, num_categories, **settings):
    _require(0 < config.active <= 1, "active", config.active, "in (0, 1]")
    _require(0 <= config.uniform <= 1, "uniform", config.uniform, "in [0, 1]")
    rows = rows_lib.per_device(num_categories, mesh)
    size = math.ceil(config.active * rows)
    uniform = math.ceil(config.uniform * size)
    return kind(
        loss,
        mesh,
        num_categories,
        size,
        uniform,
        config.importance,
        **settings,
    )


def _neighbors(config, num_categories):
    _require(config.neighbors > 0, "neighbors", config.neighbors, "above 0")
    return min(config.neighbors, num_categories - 1)


HEADS: dict[str, Callable[..., interface.Head]] = {
    "exact": _exact,
    "knn": _knn,
    "sampled": functools.partial(_active, Sampled),
    "topk": _topk,
}


def make_head(
    config: ConfigDict, mesh: Mesh, num_categories: int, batch_size: int
) -> interface.Head:
    """Returns the head that a run's `config.head` describes.

    Args:
      config: the run's `config.head`: name, margin, scale and other settings.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
      batch_size: maximum number of embeddings per step, over all devices.

    Raises:
      UserError: if a name is unknown, a value is out of range, there are
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
            f"The number of categories is {num_categories}; training needs at "
            "least 2."
        )
    _require(config.scale > 0, "scale", config.scale, "above 0")
    _require(config.chunk > 0, "chunk", config.chunk, "above 0")
    _require(config.subcenters > 0, "subcenters", config.subcenters, "above 0")
    _require(config.filter > -1, "filter", config.filter, "above -1")
    if config.margin == "arcface":
        margin = config.margin_size
        _require(0 <= margin < math.pi, "margin_size", margin, "in [0, pi)")
    for name in ("products", "wire"):
        _check_products(config[name], name)
    loss = softmax.Loss(
        margins.make_margin(config.margin),
        config.margin_size,
        config.scale,
        config.chunk,
        config.subcenters,
        config.filter,
        config.products,
        config.wire,
    )
    head = HEADS[config.name](config, loss, mesh, num_categories)
    head.check(batch_size)
    return head


def _check_products(dtype: str, name: str) -> None:
    kinds = "float32", "bfloat16"
    _require(dtype in kinds, name, dtype, " or ".join(kinds))


def _require(holds: bool, name: str, value: float | str, wanted: str) -> None:
    if not holds:
        raise UserError(f"config.head.{name} is {value}; it must be {wanted}.")
