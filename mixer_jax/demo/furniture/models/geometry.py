"""Reads the geometry of 3-D models in OBJ format.

Readers such as VTK's reject, or leave out parts of, about one in ten of the
catalogs' models: those with faces of two corners, with parts that lack texture
coordinates, or with materials that have a number as their name.
"""

from typing import NamedTuple

import numpy as np

_COLUMNS = {b"v": 3, b"vt": 2, b"vn": 3}  # numbers used per line


class Mesh(NamedTuple):
    """The faces of one material: F polygons with K corners and N points.

    Attributes:
      points: f32 [N, 3].
      coordinates: texture coordinates, f32 [N, 2]; None if there are none.
      normals: f32 [N, 3]; None unless all corners have one.
      corners: the point of each corner, int64 [K].
      offsets: the first corner of each face, then K, int64 [F + 1].
    """

    points: np.ndarray
    coordinates: np.ndarray | None
    normals: np.ndarray | None
    corners: np.ndarray
    offsets: np.ndarray


class _Faces(NamedTuple):
    """Faces of a material: corners such as "1/2/3", and numbers of corners."""

    corners: list[bytes]
    sizes: list[int]


def read(content: bytes) -> dict[str, Mesh]:
    """Returns the mesh of each material, by its name; "" for no material.

    Faces of one or two corners are invisible and left out.

    Args:
      content: the content of an OBJ file.

    Raises:
      ValueError: if a line is invalid.
    """
    tables: dict[bytes, list[bytes]] = {name: [] for name in _COLUMNS}
    faces: dict[str, _Faces] = {}
    current = faces.setdefault("", _Faces([], []))
    for line in content.splitlines():
        command, _, rest = line.strip().partition(b" ")
        if command == b"f":
            corners = rest.split()
            if len(corners) > 2:
                current.corners.extend(corners)
                current.sizes.append(len(corners))
        elif command in tables:
            tables[command].append(rest)
        elif command == b"usemtl":
            name = rest.strip().decode("latin-1")
            current = faces.setdefault(name, _Faces([], []))
    arrays = {name: _numbers(rows, name) for name, rows in tables.items()}
    return {
        name: _mesh(one, arrays) for name, one in faces.items() if one.sizes
    }


def _numbers(rows: list[bytes], name: bytes) -> np.ndarray:
    """Returns the numbers of the lines of a command, after a row of zeros.

    Row 0 stands for a missing index, since OBJ counts from 1.
    """
    count = _COLUMNS[name]
    cells = [cell for row in rows for cell in row.split()[:count]]
    if len(cells) != count * len(rows):
        raise ValueError(f"a line {name.decode()} has fewer than {count} cells")
    found = np.array(cells, "S").astype(np.float32).reshape(-1, count)
    return np.concatenate([np.zeros((1, count), np.float32), found])


def _mesh(faces: _Faces, arrays: dict[bytes, np.ndarray]) -> Mesh:
    index = _indices(faces.corners)
    for column, name in enumerate(_COLUMNS):
        part = index[:, column]
        part[part < 0] += len(arrays[name])  # counts from the end
        if part.min() < 0 or part.max() >= len(arrays[name]):
            raise ValueError(f"a face has no {name.decode()} {part.max()}")
    used, corners = np.unique(index, axis=0, return_inverse=True)
    point, coordinate, normal = used.T
    return Mesh(
        points=arrays[b"v"][point],
        coordinates=arrays[b"vt"][coordinate] if coordinate.any() else None,
        normals=arrays[b"vn"][normal] if normal.all() else None,
        corners=corners.ravel().astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(faces.sizes)]).astype(np.int64),
    )


def _indices(corners: list[bytes]) -> np.ndarray:
    """Parses corners such as "1", "1/2", "1//3" and "1/2/3", as [K, 3].

    Missing indices are 0.
    """
    index = np.zeros((len(corners), len(_COLUMNS)), np.int64)
    counts = np.array([corner.count(b"/") for corner in corners])
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        cells = b"/".join(corners[row] for row in rows).split(b"/")
        numbers = np.array([cell or b"0" for cell in cells], "S").astype(int)
        index[rows, : count + 1] = numbers.reshape(len(rows), count + 1)
    return index
