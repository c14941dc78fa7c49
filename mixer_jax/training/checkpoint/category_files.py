"""The category IDs of a run, in the order of its proxies.

`WORKDIR/categories.arrow` is mapped into memory. If the workdir is in a bucket,
the file is first copied to this machine's cache.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Sequence

from mixer_jax.runtime import files, identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings
from mixer_jax.runtime.tabular.strings import Strings

FILE = "categories.arrow"
_OLD = "categories.json"  # written by earlier versions
_PART = 2**24  # bytes copied at once


def write(workdir: paths.Path, category_ids: Sequence[str]) -> None:
    """Writes the IDs in parts of bounded size; replaces the file atomically.

    Raises:
      Exception: one of `paths.failures` if the file cannot be written.
    """
    path = workdir / FILE
    local = paths.cache(path) if paths.is_remote(path) else path
    files.write(local, lambda draft: strings.write(draft, category_ids))
    if paths.is_remote(path):
        with open(local, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _PART)


def read(workdir: paths.Path, recorded: str = "") -> Strings:
    """Returns the IDs, mapped into memory.

    Args:
      workdir: the workdir of one stage.
      recorded: the hash of the IDs; "" if it was not recorded.

    Raises:
      UserError: if the file is missing or damaged, or has another hash.
    """
    path = workdir / FILE
    try:
        category_ids = _open(path, recorded)
        category_ids.validate()
        if recorded and recorded != identity.hash_names(category_ids):
            raise ValueError("it was changed after training")
        if not (recorded or _are_unique(category_ids)):
            raise ValueError("an ID occurs twice")
        return category_ids
    except paths.failures() as error:
        if isinstance(error, FileNotFoundError) and _is_old(workdir):
            raise UserError(
                f"{workdir} was trained by an earlier version of mixer_jax, "
                f"which stored its categories in {_OLD}. Train again in "
                "another folder."
            ) from error
        raise UserError(
            f"{path} is missing or damaged ({paths.reason(error).rstrip('.')})."
            " Restore it from a copy, or train again in another folder."
        ) from error


def _open(path: paths.Path, recorded: str) -> Strings:
    """Opens the file, or a copy of it in this machine's cache."""
    if not paths.is_remote(path):
        return Strings(path)
    local = paths.cache(path)
    with contextlib.suppress(OSError, ValueError):
        category_ids = Strings(local)
        category_ids.validate()
        if recorded and recorded == identity.hash_names(category_ids):
            return category_ids

    def download(draft: pathlib.Path) -> None:
        with path.open("rb") as source, open(draft, "wb") as target:
            shutil.copyfileobj(source, target, _PART)

    files.write(local, download)
    return Strings(local)


def _are_unique(category_ids: Strings) -> bool:
    if strings.is_ascending(category_ids):
        return True
    return len(set(category_ids)) == len(category_ids)


def _is_old(workdir: paths.Path) -> bool:
    with contextlib.suppress(*paths.failures()):
        return (workdir / _OLD).exists()
    return False
