"""Copies sample tables and images from buckets, through fsspec.

Each kind of bucket needs its own package, which finds the credentials.
"""

import filecmp
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mixer_jax.runtime import files, paths, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import addresses, parts

if TYPE_CHECKING:
    import fsspec

SCHEMES = ("gs://", "s3://")
RESERVED = ("prepared", addresses.FOLDER)  # folders next to a copy
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_EXTRAS = {"gs": "gcs", "s3": "s3"}


def is_address(table: str) -> bool:
    """Returns whether a table is an address rather than a local path."""
    return "://" in table


def check_address(table: str) -> None:
    """Raises a `UserError` if a table's address does not name an object."""
    scheme = next((s for s in SCHEMES if table.startswith(s)), "")
    if not scheme or "/" not in table.removeprefix(scheme).strip("/"):
        raise UserError(
            f"The table {table} cannot be copied; its address must be like "
            "gs://BUCKET/shop.parquet or s3://BUCKET/shop.parquet."
        )


def file_system(address: str) -> "fsspec.AbstractFileSystem":
    """Returns the file system of an object in a bucket.

    Raises:
      UserError: if its package is missing.
    """
    protocol = address.partition("://")[0]
    if importlib.util.find_spec(_PACKAGES[protocol]) is None:
        raise UserError(
            f"{address} is in a bucket, which requires extra packages: "
            f'pip install "mixer_jax[{_EXTRAS[protocol]}]"'
        )
    import fsspec

    return fsspec.filesystem(protocol)


def read(address: str, max_bytes: int) -> bytes:
    """Returns the bytes of an object.

    Raises:
      ValueError: if it is larger than `max_bytes`.
      Exception: if it cannot be read; libraries raise many types of errors.
    """
    system = file_system(address)
    if (system.size(address) or 0) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return system.cat_file(address)


def copy_table(address: str, folder: str) -> tuple[str, str]:
    """Copies a table, but not its images, from a bucket.

    A copy that is up to date is not replaced.

    Args:
      address: the address of a file or of a folder of parts.
      folder: the folder for the copy.

    Returns:
      See `copied_table`.

    Raises:
      UserError: if the address is invalid, the table cannot be read, or the
        copy cannot be written.
    """
    check_address(address)
    copied, origin = copied_table(address, folder)
    _copy(address.rstrip("/"), Path(copied))
    terminal.say(
        f"The copy of {address} is {copied}; use it as --table or data.table "
        "in other commands.",
        console=terminal.Console(stderr=True),
    )
    return copied, origin


def copied_table(address: str, folder: str) -> tuple[str, str]:
    """Returns the path of a table's copy, and the address of its folder."""
    origin, _, name = address.rstrip("/").rpartition("/")
    return os.path.join(folder, name), origin


def _copy(address: str, copy: Path) -> None:
    folder = copy.parent
    paths.make_folder(folder)
    mark = folder / f".{copy.name}.origin"
    if copy.name in RESERVED or (copy.exists() and not mark.exists()):
        raise UserError(
            f"The table {address} cannot be copied to {copy}, which is "
            "not a copy of a table. Choose another folder."
        )
    system = file_system(address)
    draft = folder / f".{copy.name}.fetched"
    try:
        with files.in_turn(copy):
            _remove(draft)
            for name, part in _parts(system, address):
                target = draft / name if name else draft
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(part, str(target))
            if not draft.exists():
                raise FileNotFoundError
            if not mark.exists():
                files.write_text(mark, f"{address}\n")
            _replace(draft, copy)
    except UserError:
        raise
    except OSError as error:
        if error.filename is not None and _is_below(error.filename, folder):
            raise UserError(
                f"{folder} cannot be written to: {files.reason(error)}."
            ) from error
        raise _unreadable(address, error) from error
    except Exception as error:  # Libraries raise many types of errors.
        raise _unreadable(address, error) from error


def _parts(
    system: "fsspec.AbstractFileSystem", address: str
) -> Iterator[tuple[str, str]]:
    """Yields the relative path ("" for a single file) and address of parts."""
    if system.isfile(address):
        yield "", address
        return
    start = system._strip_protocol(address) + "/"
    found = [part.removeprefix(start) for part in sorted(system.find(address))]
    parts.check_folders(
        address, {name.partition("/")[0] for name in found if "/" in name}
    )
    for name in found:
        hidden = any(folder[0] in "._" for folder in name.split("/") if folder)
        if not hidden and not name.endswith("/"):
            yield name, start + name


def _replace(draft: Path, copy: Path) -> None:
    """Puts the new copy in place of the old one, unless they are equal."""
    if _same(draft, copy):
        _remove(draft)
    elif draft.is_dir() or copy.is_dir():
        # A folder with content cannot be replaced in one step.
        old = copy.with_name(f".{copy.name}.old")
        _remove(old)
        if copy.exists():
            copy.rename(old)
        draft.rename(copy)
        _remove(old)
    else:
        draft.replace(copy)


def _same(one: Path, other: Path) -> bool:
    """Returns whether two files or folders have the same content."""
    if one.is_dir() != other.is_dir() or not other.exists():
        return False
    if not one.is_dir():
        return filecmp.cmp(one, other, shallow=False)
    names = [
        {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        for root in (one, other)
    ]
    return names[0] == names[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False)
        for name in names[0]
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_below(name: str | bytes, folder: Path) -> bool:
    return Path(os.fsdecode(name)).is_relative_to(folder)


def _unreadable(address: str, error: Exception) -> UserError:
    reason = paths.reason(error) if str(error) else "there is no such object"
    return UserError(f"The table {address} cannot be read: {reason}.")
