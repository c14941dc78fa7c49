"""Checks that several processes share a folder."""

import secrets
import socket

from mixer_jax.runtime import paths, processes
from mixer_jax.runtime.errors import UserError

_MARK = ".shared-"


def check(folder: paths.Path, subject: str, remedy: str) -> None:
    """Checks that a folder is the same for all processes of a command.

    Args:
      folder: an existing folder; may be in a bucket.
      subject: the subject of the error message, as in "The workdir".
      remedy: a clause that says what would work.

    Raises:
      UserError: names the first process with another folder, and its host.
    """
    place, count = processes.place()
    if count == 1:
        return
    mark = folder / f"{_MARK}{secrets.token_hex(8)}"
    if place == 0:
        # Remove marker files that a killed run left behind.
        for left in paths.glob(folder, f"{_MARK}*"):
            left.unlink()
        paths.write(mark, "")
    mark = folder / processes.gather("mark", mark.name)[0]
    seen = processes.gather("seen", [mark.exists(), socket.gethostname()])
    if place == 0:
        mark.unlink()
    blind = [index for index, (sees, _) in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"{subject} {folder} of process {blind[0]} (on "
            f"{seen[blind[0]][1]}) is not that of process 0 (on {seen[0][1]}): "
            f"a local folder differs between hosts, but {remedy}"
        )
