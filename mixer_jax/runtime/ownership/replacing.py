"""Checks that files may be replaced, and replaces them."""

import errno
import os
import pathlib
import shutil
import stat
from collections.abc import Iterable

from mixer_jax.runtime import command
from mixer_jax.runtime.errors import UserError


def check(target: pathlib.Path) -> None:
    """Checks that an existing file in a writable folder can be replaced.

    Raises:
      OSError: if it is on a read-only mount, protected from changes, or owned
        by another user in a sticky folder.
    """
    owners = {target.stat().st_uid, target.parent.stat().st_uid, 0}
    is_sticky = target.parent.stat().st_mode & stat.S_ISVTX
    if is_sticky and os.geteuid() not in owners:
        reason = "it belongs to another user, and its folder is sticky"
        raise PermissionError(errno.EPERM, reason, os.fspath(target))
    try:
        os.close(os.open(target, os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        # A read-only file can still be replaced by a rename.
        if error.errno in (errno.EROFS, errno.EPERM) or os.path.ismount(target):
            raise


def check_inputs(
    targets: Iterable[str | os.PathLike],
    inputs: Iterable[tuple[str, str | None]],
) -> None:
    """Checks that no input of a command would be replaced by its output.

    Args:
      targets: the files that the command writes.
      inputs: each flag with its path, which may be "" or None.

    Raises:
      UserError: if an input would be replaced; the message names it.
    """
    targets = [target for target in targets if os.path.exists(target)]
    for flag, source in inputs:
        if not source or not os.path.exists(source):
            continue
        if any(os.path.samefile(source, target) for target in targets):
            raise UserError(
                f"{flag}={source} would be replaced by the output of this "
                "command; choose another --out, or copy the file to another "
                "path first."
            )


def replace(draft: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a draft to its target; if this fails, the target is unchanged."""
    try:
        os.replace(draft, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # The file itself is a mount point, as in containers.
        _overwrite(draft, target)
        draft.unlink()


def _overwrite(draft: pathlib.Path, target: pathlib.Path) -> None:
    with open(draft, "rb") as source, open(target, "r+b") as file:
        _reserve(file.fileno(), os.fstat(source.fileno()).st_size)
        shutil.copyfileobj(source, file)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _reserve(file: int, size: int) -> None:
    """Reserves space for a file, without changing its contents."""
    before = os.fstat(file).st_size
    try:
        os.posix_fallocate(file, 0, max(size, 1))
    except OSError as error:
        os.ftruncate(file, before)
        if error.errno in command.NO_ROOM:
            raise
