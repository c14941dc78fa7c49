"""What a failed save leaves: an error, library messages and drafts.

Orbax writes in the background. If a file cannot be written, each of its threads
logs a traceback, and writes that are still going on report to an event loop
that is closed by then. The error is raised as well, so that all of this is
hidden.
"""

import logging
import re
import shutil
import sys
from typing import Any

from mixer_jax import paths
from mixer_jax.errors import UserError
from mixer_jax.runtime import files
from mixer_jax.training import workdir as workdir_lib

# Of messages that Orbax logs while it passes the error on.
_RAISED_AS_WELL = (
    "_SignalingThread",
    "Handler Commit operations",
    "Save Finalize thread",
)
_NEVER_RETRIEVED = "exception was never retrieved"  # logged by asyncio
_STATUS = re.compile(r"[A-Z_]+: ")  # begins TensorStore's errors
_CLOSED = "Event loop is closed"
_DRAFTS = "*.orbax-checkpoint-tmp"


def explain(workdir: paths.Path, reason: str) -> UserError:
    """Returns an error that says why no checkpoint was saved, and what is left.

    Args:
      workdir: of the run.
      reason: why its checkpoint cannot be written.
    """
    if "No space left" in reason:
        reason = f"the disk is full ({files.room(workdir)})"
    kept = "There is no checkpoint yet"
    try:
        last = workdir_lib.latest_step(workdir)
        if last is not None:
            kept = f"The checkpoint of step {last} is whole"
    except UserError:
        kept = "Those before it are as they were"
    return UserError(
        "A checkpoint cannot be written to "
        f"{workdir / workdir_lib.CHECKPOINTS}: {reason}. {kept}; mend this, "
        "and the same command goes on."
    )


def remove_drafts(folder: paths.Path) -> None:
    """Removes what failed saves have written, which may fill the disk."""
    if not paths.is_remote(folder):
        for left in paths.glob(folder, _DRAFTS):
            shutil.rmtree(left, ignore_errors=True)


def hide_messages() -> None:
    """Hides the messages above, and nothing else, from now on."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_new)
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if str(ignored.exc_value) != _CLOSED or ignored.object is not None:
            before(ignored)

    sys.unraisablehook = hook


def _is_new(record: logging.LogRecord) -> bool:
    message = str(record.msg)
    if _NEVER_RETRIEVED in message:
        error = record.exc_info[1] if record.exc_info else None
        # Other programs of asyncio may run in this process.
        return not (isinstance(error, ValueError) and _STATUS.match(str(error)))
    return not any(part in message for part in _RAISED_AS_WELL)
