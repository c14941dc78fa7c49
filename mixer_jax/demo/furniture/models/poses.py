"""Sets models upright: rotation, size and position as in the catalog."""

import numpy as np

from mixer_jax.demo.furniture.models.loading import Part, UnusableModelError

_THINNEST = 1e-3  # extent that counts as none, as a share of the largest


def upright(
    parts: list[Part],
    rotation: tuple[float, ...],
    size: tuple[float, float, float],
) -> list[Part]:
    """Returns the parts of a model, turned, scaled and centered at the origin.

    Args:
      parts: the parts of the model.
      rotation: nine numbers, the rows of the rotation matrix.
      size: width, height and depth of the turned model.

    Raises:
      UnusableModelError: if the model has no extent.
    """
    turn = np.reshape(rotation, (3, 3)).astype(np.float32)
    turned = [part.mesh.points[part.mesh.corners] @ turn.T for part in parts]
    low = np.min([points.min(0) for points in turned], axis=0)
    high = np.max([points.max(0) for points in turned], axis=0)
    if not (np.isfinite(high - low).all() and (high - low).max() > 0):
        raise UnusableModelError("the model has no extent")
    scale = scale_to(high - low, np.array(size, np.float32))
    # Normals are transformed by the inverse transpose.
    matrix, inverse = scale[:, None] * turn, turn / scale[:, None]
    center = scale * (low + high) / 2
    return [_moved(part, matrix, inverse, center) for part in parts]


def scale_to(extent: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns the factor per axis that scales a model to its catalog size.

    Axes without extent, as in a carpet, get the largest factor of the others.

    Args:
      extent: the extents of the model, [3]; at least one is positive.
      size: the extents in the catalog, [3].
    """
    solid = extent > _THINNEST * extent.max()
    scale = size / np.where(solid, extent, 1)
    return np.where(solid, scale, scale[solid].max())


def radius(parts: list[Part]) -> float:
    """Returns the radius of the sphere around the origin that has all parts."""
    return max(
        float(np.linalg.norm(part.mesh.points[part.mesh.corners], axis=1).max())
        for part in parts
    )


def _moved(
    part: Part, matrix: np.ndarray, inverse: np.ndarray, center: np.ndarray
) -> Part:
    mesh = part.mesh
    normals = mesh.normals
    if normals is not None:
        normals = normals @ inverse.T
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = (normals / np.maximum(length, 1e-12)).astype(np.float32)
    points = (mesh.points @ matrix.T - center).astype(np.float32)
    return part._replace(mesh=mesh._replace(points=points, normals=normals))
