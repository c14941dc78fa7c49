"""Handling of failed saves: the error message, and removal of partial files."""

import shutil

from mixer_jax.runtime import files, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import workdir as workdir_lib

_DRAFTS = "*.orbax-checkpoint-tmp"


def explain(workdir: paths.Path, reason: str) -> UserError:
    """Returns the error to raise for a checkpoint that could not be saved.

    The error names the last complete checkpoint.

    Args:
      workdir: the run's workdir.
      reason: why the checkpoint cannot be written.
    """
    if "No space left" in reason:
        reason = f"the disk is full ({files.room(workdir)})"
    kept = "There is no checkpoint yet"
    try:
        last = workdir_lib.latest_step(workdir)
        if last is not None:
            kept = f"The checkpoint of step {last} is intact"
    except UserError:
        kept = "Earlier checkpoints are unchanged"
    return UserError(
        "A checkpoint cannot be written to "
        f"{workdir / workdir_lib.CHECKPOINTS}: {reason}. {kept}. Fix this, "
        "then run the same command again."
    )


def remove_drafts(folder: paths.Path) -> None:
    """Removes partially written checkpoints, which may fill the disk."""
    if not paths.is_remote(folder):
        for left in paths.glob(folder, _DRAFTS):
            shutil.rmtree(left, ignore_errors=True)


def unreadable(
    workdir: paths.Path, checkpoint: paths.Path, missing: str
) -> UserError:
    """Returns the error for a checkpoint that was saved but is incomplete."""
    disk = "the bucket"
    if not paths.is_remote(workdir):
        disk = f"the disk, which has {files.room(workdir)}"
    return UserError(
        f"The checkpoint {checkpoint} cannot be read, although its save "
        f"reported no error ({missing}). The run stops, because its progress "
        f"could be lost. Check {disk}, or choose another --workdir; "
        "the same command resumes from the last readable checkpoint."
    )
