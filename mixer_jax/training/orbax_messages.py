"""Drops log messages of Orbax that repeat what is raised or found anyway."""

import logging

# Modules whose messages tell of damaged metadata.
_METADATA = ("metadata/checkpoint.py", "composite_checkpoint_handler.py")


def drop_repeated() -> None:
    """Drops, from now on, messages about damage and tracebacks of threads.

    The error of a failed save is raised as well, and `checkpoints` reports
    damage with the checkpoint's name and a remedy.
    """
    logging.getLogger("absl").addFilter(_is_new)


def _is_new(record: logging.LogRecord) -> bool:
    is_traceback = "_SignalingThread" in str(record.msg)
    return not (is_traceback or record.pathname.endswith(_METADATA))
