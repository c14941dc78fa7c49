"""A run's folder: its config, categories and checkpoints.

    WORKDIR/config.json        the stage's config
    WORKDIR/categories.json    category ids; position = label = proxy row
    WORKDIR/checkpoints/STEP/  model, training, proxies and iterator

Proxies, their optimizer state and the class graph are saved as they lie in
memory, padding rows included. Restoring reads the rows that exist and pads or
cuts to this mesh's number of rows; only padding is ever added or lost.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from mixer_jax import mesh as mesh_lib
from mixer_jax.errors import UserError
from mixer_jax.models import factory
from mixer_jax.training import row_files
from mixer_jax.training import workdir as workdir_lib
from mixer_jax.training.state import TrainState

PyTree = Any

# Fields of the state whose arrays have C_pad rows.
_ROWS = ("proxies", "proxy_state", "graph")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, ready for `model.apply(variables, ...)`.

    Attributes:
      config: of the stage that trained it.
      model: see `models.towers.Mixer`.
      variables: `params` and `batch_stats`, f32, on every device of a mesh.
      category_ids: of the proxies' rows.
      step: of the checkpoint.
    """

    config: ConfigDict
    model: nn.Module
    variables: PyTree
    category_ids: list[str]
    step: int


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    return {
        "model": ocp.PyTreeCheckpointHandler(),
        "training": ocp.PyTreeCheckpointHandler(),
        "proxies": ocp.PyTreeCheckpointHandler(),
        "iterator": ocp.JsonCheckpointHandler(),
    }


def _items(state: TrainState) -> dict[str, PyTree]:
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "training": {
            "step": state.step,
            "skipped": state.skipped,
            "opt_state": state.opt_state,
            "proxy_state": state.proxy_state,
            "graph": state.graph,
        },
        "proxies": {"proxies": state.proxies},
    }


def _flat(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns `{path: shape}` of a tree of arrays or of their metadata."""

    def name(key: Any) -> str:
        # Of a dict's, a named tuple's or a sequence's element.
        kinds = ("key", "name", "idx")
        return str(next(getattr(key, k) for k in kinds if hasattr(key, k)))

    return {
        "/".join(map(name, path)): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


class Checkpoints:
    """The checkpoints of one workdir: saved in the background, restored whole.

    Saves every `every` steps and when forced; keeps the last `keep`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        every: int = 1,
        keep: int = 1,
        writes: bool = True,
    ):
        self._folder = (
            pathlib.Path(workdir) / workdir_lib.CHECKPOINTS
        ).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(every),
                preservation_policy=policies.LatestN(keep),
                # A killed run leaves half a checkpoint behind; but a reader
                # must not take a running one's.
                cleanup_tmp_directories=writes,
            ),
            item_handlers=_handlers(),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the saves that are under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the last checkpoint, None without one."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: dict[str, Any],
        force: bool = False,
    ) -> bool:
        """Saves state and data iterator together; True if it was due.

        The state is copied before this returns, so it may be donated next.
        The iterators of all processes advance in step and are equal, so that
        process 0's is saved for all.
        """
        if step == self._manager.latest_step():
            return False
        items = {
            name: ocp.args.PyTreeSave(
                item,
                _save_args(item),
                # No limit: it would cut chunks into a row each where their
                # number is prime.
                ocdbt_target_data_file_size=0,
            )
            for name, item in _items(state).items()
        }
        return self._manager.save(
            step,
            args=ocp.args.Composite(
                **items, iterator=ocp.args.JsonSave(iterator)
            ),
            force=force,
        )

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the last checkpoint's state and iterator state.

        Args:
          state: abstract, from `state.abstract`: the shapes wanted, with the
            shardings of the current mesh.

        Raises:
          UserError: if shapes differ (lists the paths) or the files are
            damaged.
        """
        found = self.read(_items(state), iterator=True)
        return (
            TrainState(
                **found["model"],
                **found["training"],
                **found["proxies"],
            ),
            found["iterator"],
        )

    def read(
        self, items: dict[str, PyTree], iterator: bool = False
    ) -> dict[str, PyTree]:
        """Reads some items of the last checkpoint; see `restore`."""
        step = self._manager.latest_step()
        where = self._folder / str(step)
        try:
            saved = self._manager.item_metadata(step)
            shapes = {name: _flat(saved[name].tree) for name in items}
        except Exception as error:
            raise row_files.damaged(where, error) from error
        for name, item in items.items():
            _check_shapes(where, shapes[name], _flat(item))
        args = {
            name: ocp.args.PyTreeRestore(item, restore_args=_restore_args(item))
            for name, item in items.items()
        }
        if iterator:
            args["iterator"] = ocp.args.JsonRestore()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:
            raise row_files.damaged(where, error) from error


def _save_args(tree: dict[str, PyTree]) -> PyTree:
    return {
        field: jax.tree.map(
            row_files.save_args if field in _ROWS else lambda _: ocp.SaveArgs(),
            value,
        )
        for field, value in tree.items()
    }


def _restore_args(tree: dict[str, PyTree]) -> PyTree:
    return {
        field: jax.tree.map(
            lambda x, strict=field not in _ROWS: ocp.ArrayRestoreArgs(
                sharding=x.sharding,
                global_shape=x.shape,
                dtype=x.dtype,
                strict=strict,
            ),
            value,
        )
        for field, value in tree.items()
    }


def _check_shapes(
    where: pathlib.Path,
    saved: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
) -> None:
    """Compares shapes by path; without the rows where they are padded."""

    def shape(shapes: dict[str, tuple[int, ...]], path: str) -> object:
        rows = path.split("/")[0] in _ROWS
        return shapes[path][rows:] if path in shapes else "absent"

    different = [
        f"{path}: {saved.get(path, 'absent')} saved, "
        f"{wanted.get(path, 'absent')} wanted"
        for path in sorted(saved.keys() | wanted.keys())
        if shape(saved, path) != shape(wanted, path)
    ]
    if different:
        more = f" and {len(different) - 10} more" if different[10:] else ""
        raise UserError(
            f"The checkpoint {where} is of another shape: "
            f"{'; '.join(different[:10])}{more}. Use the config that it was "
            "made with, or another --workdir."
        )


def load_model(workdir: str | os.PathLike, mesh: Mesh | None = None) -> Trained:
    """Loads the last checkpoint's model of a stage's workdir.

    Args:
      workdir: of one stage.
      mesh: whose devices get the variables; default all.

    Raises:
      UserError: if there is no checkpoint, or it is damaged or of another
        shape than its config says.
    """
    step = workdir_lib.trained_step(workdir)
    layout = mesh_lib.replicated(mesh or mesh_lib.make_mesh())
    config = workdir_lib.read_config(workdir)
    model = factory.make_model(config.model, jnp.dtype(config.precision))
    wanted = jax.eval_shape(
        functools.partial(factory.init_variables, model, config),
        jax.random.key(0),
    )
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        {"batch_stats": {}, **wanted},
    )
    return Trained(
        config=config,
        model=model,
        variables=load_variables(workdir, wanted),
        category_ids=workdir_lib.read_categories(workdir),
        step=step,
    )


def load_variables(workdir: str | os.PathLike, wanted: PyTree) -> PyTree:
    """Loads `params` and `batch_stats` of a workdir's last checkpoint.

    Args:
      workdir: of one stage.
      wanted: abstract, with shardings.

    Raises:
      UserError: if the checkpoint is damaged or of another shape.
    """
    with Checkpoints(workdir, writes=False) as checkpoints:
        return checkpoints.read({"model": wanted})["model"]


def load_proxies(workdir: str | os.PathLike, dim: int, mesh: Mesh) -> jax.Array:
    """Loads the proxies of a workdir, f32 `[C_pad, D]` for this mesh.

    Raises:
      UserError: if the checkpoint is damaged or its D is another.
    """
    rows = mesh_lib.padded_rows(len(workdir_lib.read_categories(workdir)), mesh)
    wanted = jax.ShapeDtypeStruct(
        (rows, dim), jnp.float32, sharding=mesh_lib.rows(mesh)
    )
    with Checkpoints(workdir, writes=False) as checkpoints:
        found = checkpoints.read({"proxies": {"proxies": wanted}})
    return found["proxies"]["proxies"]
