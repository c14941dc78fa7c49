"""Comparison of a checkpoint's shapes with the expected ones."""

from typing import Any

import jax

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import row_files

PyTree = Any
Shapes = dict[str, tuple[int, ...]]  # {path: shape}


def flat(tree: PyTree) -> Shapes:
    """Returns the shapes of a tree of arrays or of their metadata."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(
            leaf.shape
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def check(
    where: paths.Path,
    saved: Shapes,
    wanted: Shapes,
) -> None:
    """Compares shapes by path, ignoring the number of rows if it is padded.

    Raises:
      UserError: if shapes differ; lists at most ten paths.
    """

    def shape(shapes: Shapes, path: str) -> object:
        rows = path.split("/")[0] in row_files.FIELDS
        return shapes[path][rows:] if path in shapes else "absent"

    different = [
        f"{path}: {saved.get(path, 'absent')} saved, "
        f"{wanted.get(path, 'absent')} expected"
        for path in sorted(saved.keys() | wanted.keys())
        if shape(saved, path) != shape(wanted, path)
    ]
    if different:
        more = f" and {len(different) - 10} more" if different[10:] else ""
        raise UserError(
            f"The checkpoint {where} has different shapes: "
            f"{'; '.join(different[:10])}{more}. Use the config it was "
            "trained with, or the folder of another run."
        )
