"""The device mesh, and the shardings of arrays over it.

There is one mesh axis, `data`. The batch is split over it, and so are the rows
of the proxies, their optimizer state and the class graph. Everything else is
replicated, except for parameters that `training/sharding.py` splits on request.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
T = TypeVar("T")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the one-axis mesh over `devices` (default: all of them).

    Axis types are Auto because Flax Linen modules fail under Explicit axes.
    """
    devices = list(jax.devices() if devices is None else devices)
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are replicated on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def padded_rows(count: int, mesh: Mesh) -> int:
    """Returns the smallest multiple of the mesh size that is >= `count`."""
    return -(-count // mesh.size) * mesh.size


def pad_batch(batch: Any, rows: int) -> Any:
    """Zero-pads the NumPy arrays `[B, ...]` of a pytree to `rows` rows."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        widths = [(0, rows - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return np.pad(leaf, widths)

    return jax.tree.map(pad, batch)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's part of a batch on the devices.

    Args:
      batch: a pytree of NumPy arrays `[B / processes, ...]`, the rows that this
        process loaded.
      mesh: the mesh that the rows are split over.

    Returns:
      The same tree with global arrays `[B, ...]`, split over the devices.

    Raises:
      ValueError: if a leaf's rows cannot be split evenly over this process's
        devices.
    """
    local = len(mesh.local_devices)
    sharding = rows(mesh)

    def put(leaf: np.ndarray) -> jax.Array:
        if leaf.shape[0] % local:
            raise ValueError(
                f"A batch leaf of shape {leaf.shape} cannot be split over "
                f"{local} local devices; choose a batch size that is a "
                "multiple of the number of devices."
            )
        return jax.make_array_from_process_local_data(sharding, leaf)

    # This transfer is intended; with several processes the guard would
    # flag it.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(put, batch)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yields each item after the next one has been created.

    If items are asynchronous computations, the host thus prepares the next one
    while the devices are busy.
    """
    previous = []
    for item in items:
        yield from previous
        previous = [item]
    yield from previous
