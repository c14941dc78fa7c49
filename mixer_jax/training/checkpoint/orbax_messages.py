"""A filter for console messages about errors that are reported anyway.

Orbax reads and writes in background threads. If a file is damaged or cannot be
written, it logs a warning or each thread's traceback, and unfinished writes
report to an event loop that is already closed. The error itself is raised, and
`checkpoints` reports it with the checkpoint's name and a remedy.
"""

import logging
import re
import sys
from typing import Any

# Modules that warn about damaged metadata.
_METADATA = ("metadata/checkpoint.py", "composite_checkpoint_handler.py")
# Parts of messages that Orbax logs before it raises the same error.
_RAISED = ("_SignalingThread", "Handler Commit operations", "Save Finalize")
_NEVER_RETRIEVED = "exception was never retrieved"  # logged by asyncio
_STATUS = re.compile(r"[A-Z_]+: ")  # TensorStore's errors start with this
_CLOSED = "Event loop is closed"


def hide() -> None:
    """Hides these messages, and no others, from now on."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_new)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        is_known = str(unraisable.exc_value) == _CLOSED
        if not is_known or unraisable.object is not None:
            before(unraisable)

    sys.unraisablehook = hook


def _is_new(record: logging.LogRecord) -> bool:
    message = str(record.msg)
    if _NEVER_RETRIEVED in message:
        error = record.exc_info[1] if record.exc_info else None
        # Other code in this process may use asyncio.
        return not (isinstance(error, ValueError) and _STATUS.match(str(error)))
    if record.pathname.endswith(_METADATA):
        return False
    return not any(part in message for part in _RAISED)
