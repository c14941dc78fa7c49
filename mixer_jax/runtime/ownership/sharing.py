"""Checks that several processes share a folder."""

import secrets
import socket
import time

from mixer_jax.runtime import paths, processes
from mixer_jax.runtime.errors import UserError

_MARK = ".shared-"
_STALE = 3600  # seconds after which a marker file is stale


def check(folder: paths.Path, subject: str, remedy: str) -> None:
    """Checks that a folder is the same for all processes of a command.

    Args:
      folder: an existing folder; may be in a bucket.
      subject: the subject of the error message, as in "The workdir".
      remedy: a clause that says what would work.

    Raises:
      UserError: names the first process with a different folder, and its host.
    """
    place, count = processes.place()
    if count == 1:
        return
    now = int(time.time())
    mark = folder / f"{_MARK}{now}-{secrets.token_hex(8)}"
    if place == 0:
        # Remove marker files that killed runs left behind.
        for left in paths.glob(folder, f"{_MARK}*"):
            made = left.name.removeprefix(_MARK).partition("-")[0]
            if not made.isdecimal() or now - int(made) > _STALE:
                left.unlink(missing_ok=True)
        paths.write(mark, "")
    mark = folder / processes.gather("mark", mark.name)[0]
    seen = processes.gather("seen", [mark.exists(), socket.gethostname()])
    if place == 0:
        mark.unlink(missing_ok=True)
    blind = [index for index, (sees, _) in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"{subject} {folder} of process {blind[0]} (on "
            f"{seen[blind[0]][1]}) is not that of process 0 (on {seen[0][1]}): "
            f"a local folder differs between hosts, but {remedy}"
        )
