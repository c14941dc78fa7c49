"""A run's folder: its config, categories and checkpoints.

    WORKDIR/config.json        the stage's config
    WORKDIR/categories.arrow   category ids; position = label = proxy row
    WORKDIR/checkpoints/STEP/  model, training, proxies and iterator

A damaged checkpoint (see `checksums`) is moved to `WORKDIR/damaged/STEP`, or to
`STEP-2` and so on if that exists, and the run resumes from the one before it.

Proxies, their optimizer state and the class graph are saved with their padding
rows. Restoring pads or truncates them to the number of rows on the current
mesh; only padding rows are ever added or dropped.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from mixer_jax.models import factory
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths, processes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import (
    checksums,
    completeness,
    failed_saves,
    orbax_messages,
    row_files,
    row_loading,
)
from mixer_jax.training.checkpoint import shapes as shapes_lib
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.state import TrainState

PyTree = Any

_ARRAYS = ("model", "training", "proxies")  # checkpoint items with arrays

orbax_messages.hide()


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, ready for `model.apply(variables, ...)`.

    Attributes:
      config: the config of the stage that trained it.
      model: see `models.towers.Mixer`.
      variables: `params` and `batch_stats`, f32, on every device of a mesh.
      category_ids: the category id of each proxy row.
      step: the checkpoint's step.
      calibration: see `retrieval.calibration`; None except for bundles.
    """

    config: ConfigDict
    model: nn.Module
    variables: PyTree
    category_ids: Sequence[str]
    step: int
    calibration: Any = None


class Checkpoints:
    """The checkpoints of one workdir, saved in the background.

    A checkpoint is saved every `every` steps and when forced; the last `keep`
    are kept.
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
        self._verifies = jax.process_index() == 0
        self._background = checksums.BackgroundChecks(
            functools.partial(completeness.missing, arrays=_ARRAYS),
            completeness.is_written,
        )
        self._manager = ocp.CheckpointManager(
            self._plain,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(every),
                preservation_policy=policies.LatestN(keep),
                # A killed run leaves a partial checkpoint behind. Readers must
                # not remove it, because the run may still be writing it.
                cleanup_tmp_directories=writes,
            ),
            item_handlers={
                **{name: ocp.PyTreeCheckpointHandler() for name in _ARRAYS},
                "iterator": ocp.JsonCheckpointHandler(),
            },
        )
        # Processes may see a save end at different times, but they agree on the
        # last save that was started.
        self._saved = self._manager.latest_step()
        self._failed = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
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
            missing = self._background.finish()
            if self._failed and self._verifies:
                failed_saves.remove_drafts(self._folder)
        self._check(missing)

    def due(self, step: int) -> bool:
        """Returns whether `save` saves this step without being forced."""
        return step % self._every == 0

    def latest_step(self) -> int | None:
        """Returns the step of the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: dict[str, Any],
        force: bool = False,
    ) -> bool:
        """Saves state and data iterator together; returns whether it did.

        The state may be donated afterwards. On accelerators it is copied before
        this returns; on CPUs a large state has been written by then.
        The iterators of all processes advance together and are equal, so only
        that of process 0 is saved.

        Raises:
          UserError: if this save failed, or the previous one failed or was
            incomplete.
        """
        if step == self._saved:
            return False
        # Saving waits for the state anyway. Waiting here distinguishes a
        # failed step (if another process died) from a failed write.
        jax.block_until_ready(state)
        items = {}
        for name, item in state_lib.to_items(state).items():
            args = row_files.tree_save_args(item)
            remote = paths.is_remote(self._folder)
            size = row_files.OBJECT if remote else row_files.FILE
            size = row_files.file_size(size, item, args)
            items[name] = ocp.args.PyTreeSave(
                item, args, ocdbt_target_data_file_size=size
            )
        try:
            if force or self.due(step):
                self._manager.wait_until_finished()
                # A new save could remove a folder that is being checksummed.
                self._check(self._background.finish())
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    **items, iterator=ocp.args.JsonSave(iterator)
                ),
                force=force,
                custom_metadata={"step": step},
            )
            if saved and _shares_memory(state.proxies):
                self._manager.wait_until_finished()
        except UserError:
            raise
        except paths.failures() as error:
            self._fail(error)
        if saved:
            self._saved = step
            if self._verifies:
                self._background.begin(self._folder / str(step))
        return saved

    def restore(
        self, state: TrainState, say: Callable[[str], None] = print
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns state and iterator state of the last intact checkpoint.

        Args:
          state: the abstract state from `state.abstract`, with the expected
            shapes and the shardings of the current mesh.
          say: called with a message for each checkpoint that is set aside.

        Raises:
          UserError: if shapes differ (lists the paths) or all checkpoints are
            damaged.
        """
        items = None
        while items is None:
            step = self._manager.latest_step()
            wrong = self._differing(step)
            try:
                if wrong:
                    raise row_files.damaged(self._folder / str(step), wrong)
                items = self.read(state_lib.to_items(state), iterator=True)
            except row_files.DamagedError as error:
                # An unreachable bucket causes the same error.
                paths.check(self._workdir)
                others = len(self._manager.all_steps()) > 1
                if not others:
                    raise row_files.DamagedError(
                        error.problem, row_files.ONLY
                    ) from error
                # Other processes may be able to read it, so the run must end.
                if jax.process_count() > 1 and not wrong:
                    raise
                moved = self._set_aside(step)
                say(f"{error.problem} It was moved to {moved}.")
        return state_lib.from_items(items, state), items["iterator"]

    def _differing(self, step: int, items: Collection[str] = ()) -> str:
        """Returns a description of the damage, or ""; only process 0 checks."""
        wrong, folder = "", self._folder / str(step)
        if self._verifies and not paths.is_remote(folder):
            wrong = checksums.check(folder, items)
            wrong = wrong or completeness.other_step(folder)
            # A run killed right after a save has written no checksums.
            if not (wrong or items):
                wrong = completeness.missing(folder, _ARRAYS)
        processes.barrier("compared", processes.PATIENCE)
        return processes.gather("damage", wrong)[0]

    def _set_aside(self, step: int) -> paths.Path:
        """Moves a damaged checkpoint out of the way; returns its new path."""
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
            where = self._folder / str(self._saved)
            raise failed_saves.unreadable(self._workdir, where, missing)

    def _named(self, reason: str) -> str:
        return reason.replace(str(self._plain), str(self._folder))

    def _fail(self, error: Exception) -> NoReturn:
        if processes.raised_by_devices(error):
            raise error  # Another process died during the save.
        self._failed = True
        self._background.finish()  # The error below reports the failed save.
        reason = self._named(paths.reason(error))
        raise failed_saves.explain(self._workdir, reason) from error

    def read(
        self, items: dict[str, PyTree], iterator: bool = False
    ) -> dict[str, PyTree]:
        """Reads some items of the last checkpoint; see `restore`."""
        while True:
            step = self._manager.latest_step()
            try:
                return self._read(step, items, iterator)
            except row_files.RemovedError:
                self._manager.reload()
                if (self._manager.latest_step() or 0) <= step:
                    raise

    def _read(
        self, step: int, items: dict[str, PyTree], iterator: bool
    ) -> dict[str, PyTree]:
        where = self._folder / str(step)
        # `restore` has already compared all items.
        if not iterator and (wrong := self._differing(step, items)):
            raise row_files.damaged(where, wrong)
        try:
            saved = self._manager.item_metadata(step)
            shapes = {name: shapes_lib.flat(saved[name].tree) for name in items}
        except Exception as error:
            raise row_files.damaged(where, self._named(str(error))) from error
        for name, item in items.items():
            shapes_lib.check(where, shapes[name], shapes_lib.flat(item))
        args = {}
        for name, item in items.items():
            tree, restore_args = row_files.tree_restore_args(item)
            args[name] = ocp.args.PyTreeRestore(tree, restore_args=restore_args)
        if iterator:
            args["iterator"] = ocp.args.JsonRestore()
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**args))
            rows = {
                name: row_loading.load_rows(where / name, item)
                for name, item in items.items()
            }
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # There is too little memory; the files may be fine.
        except Exception as error:
            raise row_files.damaged(where, self._named(str(error))) from error
        return {
            name: item | rows.get(name, {})
            for name, item in dict(found).items()
        }


def _shares_memory(proxies: jax.Array) -> bool:
    """Returns whether a pending save makes the next step copy large proxies.

    On CPUs, a save reads the state itself. A step cannot update arrays in place
    while they are being read.
    """
    on_cpu = {device.platform for device in proxies.devices()} == {"cpu"}
    return on_cpu and proxies.nbytes > row_files.CHUNK


def is_whole(workdir: str | os.PathLike, step: int) -> bool:
    """Returns whether a checkpoint of a workdir is complete and intact."""
    folder = paths.absolute(paths.make(workdir))
    folder = folder / workdir_lib.CHECKPOINTS / str(step)
    wrong = ""
    if jax.process_index() == 0:
        wrong = completeness.missing(folder, _ARRAYS)
        if not wrong and not paths.is_remote(folder):
            wrong = checksums.check(folder) or completeness.other_step(folder)
    return not processes.gather("whole", wrong)[0]


def load_model(workdir: str | os.PathLike, mesh: Mesh | None = None) -> Trained:
    """Loads the model from the last checkpoint of a stage's workdir.

    Args:
      workdir: the workdir of one stage.
      mesh: the mesh to place the variables on; all devices by default.

    Raises:
      UserError: if there is no checkpoint, or if it is damaged or its shapes
        do not match its config.
    """
    workdir_lib.trained_step(workdir)  # Raises if there is no checkpoint.
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
        variables = checkpoints.read({"model": wanted})["model"]
        step = checkpoints.latest_step()  # the step just read
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
      workdir: the workdir of one stage.
      wanted: the abstract variables, with shardings.

    Raises:
      UserError: if the checkpoint is damaged or has different shapes.
    """
    with Checkpoints(workdir, writes=False) as checkpoints:
        return checkpoints.read({"model": wanted})["model"]
