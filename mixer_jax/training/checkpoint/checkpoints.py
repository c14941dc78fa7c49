"""A run's folder: its config, categories and checkpoints.

    WORKDIR/config.json        the stage's config
    WORKDIR/categories.json    category ids; position = label = proxy row
    WORKDIR/checkpoints/STEP/  model, training, proxies and iterator

A checkpoint that is damaged (see `checksums`) is set aside, in
`WORKDIR/damaged/STEP`, or `STEP-2` and so on if there is one already, and a run
goes on from the one before it.

Proxies, their optimizer state and the class graph are saved as they lie in
memory, padding rows included. Restoring reads the rows that exist and pads or
cuts to this mesh's number of rows; only padding is ever added or lost.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from mixer_jax.models import factory
from mixer_jax.runtime import files, paths, processes
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import (
    checksums,
    completeness,
    failed_saves,
    orbax_messages,
    row_files,
)
from mixer_jax.training.checkpoint import shapes as shapes_lib
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.state import TrainState

PyTree = Any

_ARRAYS = ("model", "training", "proxies")  # items

orbax_messages.hide()


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
        **{name: ocp.PyTreeCheckpointHandler() for name in _ARRAYS},
        "iterator": ocp.JsonCheckpointHandler(),
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
        self._workdir = paths.absolute(paths.make(workdir))
        self._folder = self._workdir / workdir_lib.CHECKPOINTS
        self._every = every
        if writes:
            paths.make_folder(self._folder)
        self._plain = paths.plain(self._folder)
        # Process 0 checks the files of all processes.
        self._looks = jax.process_index() == 0
        self._noting = checksums.Noting(
            functools.partial(completeness.missing, arrays=_ARRAYS),
            completeness.is_written,
        )
        self._manager = ocp.CheckpointManager(
            self._plain,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(every),
                preservation_policy=policies.LatestN(keep),
                # A killed run leaves half a checkpoint behind; but a reader
                # must not take a running one's.
                cleanup_tmp_directories=writes,
            ),
            item_handlers=_handlers(),
        )
        # Of several processes, each may see the end of a save at another time;
        # what was begun is the same for all.
        self._saved = self._manager.latest_step()
        self._failed = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending saves.

        Raises:
          UserError: if one of them failed or was incomplete.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except paths.failures() as error:
            self._fail(error)
        finally:
            missing = self._noting.finish()
            if self._failed and self._looks:
                failed_saves.remove_drafts(self._folder)
        self._check(missing)

    def due(self, step: int) -> bool:
        """Returns whether `save` saves this step if it is not forced to."""
        return step % self._every == 0

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

        Raises:
          UserError: if this save failed, or the previous one failed or was
            incomplete.
        """
        if step == self._saved:
            return False
        # It waits for the state anyway; but a step that fails, as where another
        # process has died, would look like a file that cannot be written.
        jax.block_until_ready(state)
        items = {}
        for name, item in state_lib.to_items(state).items():
            args = row_files.tree_save_args(item)
            size = 0  # Files have no limit.
            if paths.is_remote(self._folder):
                size = row_files.object_size(item, args)
            items[name] = ocp.args.PyTreeSave(
                item, args, ocdbt_target_data_file_size=size
            )
        try:
            if force or self.due(step):
                self._manager.wait_until_finished()
                # Else a folder might be removed while it gets its checksums.
                self._check(self._noting.finish())
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    **items, iterator=ocp.args.JsonSave(iterator)
                ),
                force=force,
            )
        except UserError:
            raise
        except paths.failures() as error:
            self._fail(error)
        if saved:
            self._saved = step
            if self._looks:
                self._noting.begin(self._folder / str(step))
        return saved

    def restore(
        self, state: TrainState, say: Callable[[str], None] = print
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the last whole checkpoint's state and iterator state.

        Args:
          state: abstract, from `state.abstract`: the shapes wanted, with the
            shardings of the current mesh.
          say: is told which checkpoints are damaged and set aside.

        Raises:
          UserError: if shapes differ (lists the paths) or all checkpoints are
            damaged.
        """
        found = None
        while found is None:
            step = self._manager.latest_step()
            wrong = self._differing(step)
            try:
                if wrong:
                    raise row_files.damaged(self._folder / str(step), wrong)
                found = self.read(state_lib.to_items(state), iterator=True)
            except row_files.DamagedError as error:
                # A bucket that cannot be reached looks alike.
                paths.check(self._workdir)
                # What only one process cannot read, ends all of them.
                others = len(self._manager.all_steps()) > 1
                if not others:
                    raise row_files.DamagedError(
                        error.what, row_files.ONLY
                    ) from error
                if jax.process_count() > 1 and not wrong:
                    raise
                say(f"{error.what} It is set aside in {self._set_aside(step)}.")
        return state_lib.from_items(found, state), found["iterator"]

    def _differing(self, step: int, items: Collection[str] = ()) -> str:
        """See `checksums.check`; one process reads the files, for all."""
        wrong, folder = "", self._folder / str(step)
        if self._looks and not paths.is_remote(folder):
            wrong = checksums.check(folder, items)
            # A run killed after a save has noted no checksums.
            if not (wrong or items):
                wrong = completeness.missing(folder, _ARRAYS)
        return processes.gather("damage", wrong)[0]

    def _set_aside(self, step: int) -> paths.Path:
        """Moves a damaged checkpoint out of the way; returns where it is."""
        aside = self._workdir / workdir_lib.DAMAGED / str(step)
        if jax.process_index() == 0:
            with paths.reaching(self._workdir):
                aside = paths.move_folder(self._folder / str(step), aside)
        aside = paths.make(processes.gather("aside", str(aside))[0])
        self._manager.reload()
        self._saved = self._manager.latest_step()
        return aside

    def _check(self, missing: str) -> None:
        """Raises a `UserError` if the last checkpoint is incomplete."""
        if missing:
            disk = "the bucket"
            if not paths.is_remote(self._workdir):
                disk = f"the disk, which has {files.room(self._workdir)}"
            raise UserError(
                f"The checkpoint {self._folder / str(self._saved)} cannot be "
                f"read, although its save reported no error ({missing}). The "
                f"run stops, because its progress could be lost. Check {disk}, "
                "or name another folder by --workdir; the same command resumes "
                "from the last readable checkpoint."
            )

    def _named(self, reason: str) -> str:
        return reason.replace(str(self._plain), str(self._folder))

    def _fail(self, error: Exception) -> NoReturn:
        if processes.raised_by_devices(error):
            raise error  # Another process has died while all met for a save.
        self._failed = True
        self._noting.finish()  # That there is no checkpoint is said here.
        reason = self._named(paths.reason(error))
        raise failed_saves.explain(self._workdir, reason) from error

    def read(
        self, items: dict[str, PyTree], iterator: bool = False
    ) -> dict[str, PyTree]:
        """Reads some items of the last checkpoint; see `restore`."""
        step = self._manager.latest_step()
        where = self._folder / str(step)
        # `restore` has compared all of them.
        if not iterator and (wrong := self._differing(step, items)):
            raise row_files.damaged(where, wrong)
        try:
            saved = self._manager.item_metadata(step)
            shapes = {name: shapes_lib.flat(saved[name].tree) for name in items}
        except Exception as error:
            raise row_files.damaged(where, self._named(str(error))) from error
        for name, item in items.items():
            shapes_lib.check(where, shapes[name], shapes_lib.flat(item))
        args = {
            name: ocp.args.PyTreeRestore(
                item, restore_args=row_files.tree_restore_args(item)
            )
            for name, item in items.items()
        }
        if iterator:
            args["iterator"] = ocp.args.JsonRestore()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:
            raise row_files.damaged(where, self._named(str(error))) from error


def is_whole(workdir: str | os.PathLike, step: int) -> bool:
    """Returns whether a workdir's checkpoint is as it was written."""
    folder = paths.absolute(paths.make(workdir))
    folder = folder / workdir_lib.CHECKPOINTS / str(step)
    wrong = ""
    if jax.process_index() == 0:
        wrong = completeness.missing(folder, _ARRAYS)
        if not wrong and not paths.is_remote(folder):
            wrong = checksums.check(folder)
    return not processes.gather("whole", wrong)[0]


def load_model(workdir: str | os.PathLike, mesh: Mesh | None = None) -> Trained:
    """Loads the last checkpoint's model of a stage's workdir.

    Args:
      workdir: of one stage.
      mesh: whose devices get the variables; default all.

    Raises:
      UserError: if there is no checkpoint, or it is damaged or of another
        shape than its config says.
    """
    workdir_lib.trained_step(workdir)  # Is there one?
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
    with Checkpoints(workdir, writes=False) as checkpoints:
        # A run that trains may have saved another one since.
        step = checkpoints.latest_step()
        variables = checkpoints.read({"model": wanted})["model"]
    return Trained(
        config=config,
        model=model,
        variables=variables,
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
