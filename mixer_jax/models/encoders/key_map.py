"""Conversion between our variables and the tensors of original files."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import nearest

PyTree = Any

# Names of our leaves in the original checkpoints.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Axis permutations from our kernels to the originals, keyed by rank:
# dense [in, out] -> [out, in], convolution [H, W, in, out] -> [out, in, H, W].
_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """Tensor names of an encoder family in the original files.

    Attributes:
      pairs: pairs `(ours, theirs)` of a regular expression that matches a
        whole path and the template of the original name. A path refers either
        to a layer, such as `layer3/query`, whose `kernel`, `scale`, `bias`,
        `mean` and `var` are converted to the original names and layout, or to
        a single parameter, such as `word_embedding`, which is stored
        unchanged.
      ignored: a regular expression that matches the whole names of tensors in
        the files that the encoder does not need.
      prefix: a prefix that names may have, as in models with a task head.
    """

    pairs: tuple[tuple[str, str], ...]
    ignored: str = "(?!)"
    prefix: str = ""

    def name(self, path: tuple[str, ...]) -> str:
        """Returns the original name of a leaf.

        Args:
          path: path of the leaf, starting with its collection.

        Raises:
          KeyError: if no pair matches.
        """
        _, *layer, leaf = path
        whole = "/".join([*layer, leaf])
        for ours, theirs in _compiled(self.pairs):
            if match := ours.fullmatch(whole):
                return match.expand(theirs)
            if (match := ours.fullmatch("/".join(layer))) and leaf in _LEAVES:
                return f"{match.expand(theirs)}.{_LEAVES[leaf]}"
        raise KeyError(f"The key map has no pair for {whole}.")

    def load(
        self, tensors: Mapping[str, np.ndarray], variables: PyTree, source: str
    ) -> PyTree:
        """Returns the variables with values from a file.

        Args:
          tensors: the file's tensors by name.
          variables: `{"params": ..., "batch_stats": ...}`, which determine
            the paths, shapes and dtypes; not modified.
          source: the name of the file, for error messages.

        Raises:
          UserError: if the variables are those of another family, or if
            tensors are missing, unexpected or of another shape; the message
            lists all such tensors, and similar names for missing ones.
        """
        rest = {
            name.removeprefix(self.prefix): x for name, x in tensors.items()
        }
        names = list(rest)
        loaded, misfits = {}, []
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
            try:
                name = self.name(path)
            except KeyError as error:
                raise UserError(
                    f"The pretrained weights {source} are for a different "
                    "encoder; the model has the variable "
                    f"{'/'.join(path[1:])}."
                ) from error
            tensor = rest.pop(name, None)
            if tensor is None:
                near = nearest(name, names)
                hint = f" (it has {near[0]})" if near else ""
                misfits.append(f"{name} is missing from the file{hint}")
                continue
            if path[-1] == "kernel":
                axes = np.argsort(_AXES.get(tensor.ndim, range(tensor.ndim)))
                tensor = np.transpose(tensor, axes)
            if tensor.shape != leaf.shape:
                misfits.append(
                    f"{name} has shape {tensor.shape} in the file and "
                    f"{leaf.shape} in the model"
                )
                continue
            loaded[path] = jax.numpy.asarray(tensor, leaf.dtype)
        misfits += [
            f"{name} is not in the model"
            for name in rest
            if not re.fullmatch(self.ignored, name)
        ]
        if misfits:
            raise UserError(
                f"The pretrained weights {source} do not fit the model: "
                + "; ".join(misfits)
                + "."
            )
        return traverse_util.unflatten_dict(loaded)

    def store(self, variables: PyTree) -> dict[str, np.ndarray]:
        """Converts variables to tensors in the form that `load` reads."""
        tensors = {}
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
            tensor = np.asarray(leaf)
            if path[-1] == "kernel":
                tensor = np.transpose(tensor, _AXES[tensor.ndim])
            tensors[self.name(path)] = np.ascontiguousarray(tensor)
        return tensors


@functools.cache
def _compiled(
    pairs: tuple[tuple[str, str], ...],
) -> tuple[tuple[re.Pattern, str], ...]:
    return tuple((re.compile(ours), theirs) for ours, theirs in pairs)
