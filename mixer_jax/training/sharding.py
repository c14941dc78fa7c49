"""The layout of parameters on the devices, set by rules for their paths.

`config.sharding` is `((pattern, rule), ...)`. The first pattern found in a
parameter's path sets the rule for the parameter, its optimizer state and its
average; the default is `replicate`. Rules:

- `replicate`: every device holds the whole array.
- `fsdp`: the array is split over the devices and gathered in each step
  (Rajbhandari et al., arXiv 1910.02054, stage 3; Zhao et al., arXiv
  2304.11277): each of D devices keeps 1/D of the parameters and moments.
- `rows`: the array is split along its first axis and never gathered; meant
  for tables from which a step reads only a few rows.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import patterns

PyTree = Any
Rules = tuple[tuple[str, str], ...]

RULES = ("replicate", "fsdp", "rows")
# Smaller parameters stay replicated: splitting them costs more than it saves.
_SMALL = 2**16


def check(rules: Rules, paths: Collection[str]) -> None:
    """Checks a config's rules against the paths of a model's parameters.

    Raises:
      UserError: if a rule does not exist, or if a pattern is not a regular
        expression or matches no path.
    """
    for pattern, rule in rules:
        if rule not in RULES:
            raise UserError(
                f"sharding: there is no rule '{rule}' (for '{pattern}'); use "
                f"one of {', '.join(RULES)}."
            )
        patterns.check("sharding", pattern, paths)


def layouts(tree: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Returns the sharding of every leaf of a tree of parameters.

    Args:
      tree: arrays or their shapes; paths may have a prefix, as in the moments
        of an optimizer.
      mesh: the device mesh.
      rules: the rules of the config.
    """
    return jax.tree.map_with_path(
        lambda path, x: _layout(_rule(path, rules), x.shape, mesh), tree
    )


def gather(tree: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Replicates arrays that `fsdp` has split, inside jit."""
    whole = mesh_lib.replicated(mesh)

    def one(path: Any, x: jax.Array) -> jax.Array:
        if _rule(path, rules) != "fsdp":
            return x
        return jax.lax.with_sharding_constraint(x, whole)

    return jax.tree.map_with_path(one, tree)


def _rule(path: Any, rules: Rules) -> str:
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    return patterns.find(rules, path, "replicate")


def _layout(rule: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Splits the first axis or, for `fsdp`, the longest divisible axis."""
    if rule == "replicate" or math.prod(shape) < _SMALL:
        return mesh_lib.replicated(mesh)
    axes = [i for i, size in enumerate(shape) if size % mesh.size == 0]
    if rule == "rows":
        axes = [i for i in axes if i == 0]
    if not axes:
        return mesh_lib.replicated(mesh)
    axis = max(axes, key=lambda i: shape[i])
    spec = [None] * len(shape)
    spec[axis] = mesh_lib.AXIS
    return NamedSharding(mesh, PartitionSpec(*spec))
