"""Paths of a run's files, on this machine or in a bucket.

A local path is a `pathlib.Path`. A path in Google Cloud Storage, such as
`gs://BUCKET/runs/stage2`, is an `epath.Path`, which has the same methods;
`absolute` and `resolve` give wrong results there. Writes of objects in a bucket
are atomic, and nothing can be appended to an object. Folders are only prefixes
of names, so they need not be created.

Three libraries access a bucket: gcsfs (behind epath), TensorStore (the arrays
of checkpoints) and google-cloud-storage (with which Orbax finds the type of
a bucket). Each finds Google's application default credentials by itself.
"""

import contextlib
import glob as glob_lib
import importlib.util
import itertools
import os
import pathlib
import re
import secrets
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import platformdirs
import tensorstore
from etils import epath

from mixer_jax.runtime import files, results
from mixer_jax.runtime.errors import UserError

Path: TypeAlias = pathlib.Path | epath.Path

_SCHEME = "gs://"
_PLAIN = re.compile(r"[\w./ =+,@~-]*")  # safe folder names; see `plain`
_PLAIN_OBJECT = re.compile(r"[A-Za-z0-9._/=,@~:-]*")  # see `check`
_OPEN: dict[tuple[int, int], int] = {}  # file descriptors of folders, by inode


def make(name: str | os.PathLike) -> Path:
    """Returns the path that a string names, on this machine or in a bucket.

    Raises:
      UserError: if the path is neither local nor in a bucket of Google Cloud
        Storage, if it is in a bucket and the extra `gcs` is missing, or if its
        name is not UTF-8.
    """
    text = os.fspath(name)
    files.check_name(text)
    if "://" not in text:
        return pathlib.Path(text)
    bucket = text.removeprefix(_SCHEME).strip("/")
    if not (text.startswith(_SCHEME) and bucket):
        raise UserError(
            f"{text} is neither a local path nor a Google Cloud Storage path "
            "such as gs://BUCKET/runs/stage1."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{text} is in a bucket, which requires extra packages: "
            'pip install "mixer_jax[gcs]"'
        )
    # If TensorFlow is installed, epath would use its file system instead.
    os.environ["EPATH_USE_TF"] = "false"
    from fsspec.config import conf

    # Other processes write to the bucket, so do not cache listings.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(text)


def is_remote(path: Path) -> bool:
    """Returns whether a path from `make` is in a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> Path:
    """Returns the absolute path; bucket paths are returned unchanged."""
    return path if is_remote(path) else pathlib.Path(os.path.abspath(path))


def local(name: str | os.PathLike, subject: str) -> pathlib.Path:
    """Returns the path of data that must be on this machine.

    Args:
      name: the path.
      subject: the subject of the error message, as in "An index".

    Raises:
      UserError: if the path is not local.
    """
    if "://" in os.fspath(name):
        raise UserError(
            f"{subject} must be stored on this machine, but {name} is not a "
            "local path; choose a local path."
        )
    return pathlib.Path(name)


def glob(folder: Path, pattern: str) -> list[Path]:
    """Returns the entries of a folder that match a pattern.

    Special characters in the folder's own name are taken literally.
    """
    if is_remote(folder):
        folder = epath.Path(glob_lib.escape(os.fspath(folder)))
    return list(folder.glob(pattern))


def write(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    if is_remote(path):
        path.write_bytes(text.encode())
        return
    files.write_text(path, text)


def deliver(path: Path, text: str, subject: str) -> None:
    """Writes text that is expensive to recompute; see `results.deliver`.

    Raises:
      UserError: if it cannot be written; names the file where it was saved
        instead, if any.
    """
    if not is_remote(path):
        results.deliver(path, files.text_writer(text), subject)
        return
    try:
        write(path, text)
    except failures() as error:
        kept = results.rescue(path.name, files.text_writer(text))
        raise UserError(
            f"{subject} cannot be written to {path}: {reason(error)}."
            + (f" The result was saved as {kept}." if kept else "")
        ) from error


def in_turn(path: Path) -> contextlib.AbstractContextManager[None]:
    """See `files.in_turn`; does not wait if the file is in a bucket."""
    return contextlib.nullcontext() if is_remote(path) else files.in_turn(path)


def check_file(path: Path, subject: str) -> None:
    """Checks that a file can be written; see `files.check` and `check`."""
    if is_remote(path):
        check(path.parent)
    else:
        files.check(path, subject)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents; does nothing in a bucket."""
    if not is_remote(path):
        files.make_folder(path)


def move_folder(source: Path, target: Path) -> Path:
    """Moves a folder; returns `target`, or a free name if it is taken.

    Args:
      source: the folder.
      target: its new path; if that exists, `target-2` and so on.
    """
    free = target
    for number in itertools.count(2):
        if not free.exists():
            break
        free = target.with_name(f"{target.name}-{number}")
    if not is_remote(source):
        make_folder(free.parent)
        source.rename(free)
        return free
    import fsspec

    files = fsspec.filesystem("gcs", finalize_on_close=True)
    names = [name.removeprefix("/") for name in files.find(str(source))]
    beginning = str(source).removeprefix(_SCHEME)
    # The file that marks a checkpoint as complete is at its top level. Move it
    # first, so that the rest is not mistaken for a complete checkpoint.
    for name in sorted(names, key=lambda name: name.count("/")):
        files.mv_file(name, str(free) + name.removeprefix(beginning))
    return free


def kvstore(path: Path) -> dict[str, Any]:
    """Returns the TensorStore specification of a folder."""
    if is_remote(path):
        _, _, bucket, *folders = path.parts
        inside = "".join(f"{folder}/" for folder in folders)
        return {"driver": "gcs", "bucket": bucket, "path": inside}
    return {"driver": "file", "path": f"{absolute(path)}/"}


def plain(path: Path) -> Path:
    """Returns a path free of characters that are special to libraries.

    Orbax and TFDS parse `[`, `*` and `?` in a folder's name as a pattern, and
    TensorStore parses a backslash as a slash. If the name of a local folder has
    such characters, the result is `/proc/self/fd/N` of a file descriptor that
    stays open; it is valid in this process only.

    Args:
      path: the folder; returned unchanged if it does not exist.

    Raises:
      UserError: if this system has no `/proc/self/fd`.
    """
    if is_remote(path):
        return path
    path = absolute(path)
    if _PLAIN.fullmatch(str(path)) or not path.is_dir():
        return path
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    status = os.fstat(file)
    known = _OPEN.setdefault((status.st_dev, status.st_ino), file)
    if known != file:
        os.close(file)
    name = pathlib.Path(f"/proc/self/fd/{known}")
    if not name.is_dir():
        raise UserError(
            f"{path} contains characters parsed as a pattern; use only "
            "letters, digits, spaces and any of ._-=+,@~ in the folder's name."
        )
    return name


def cache(path: Path) -> pathlib.Path:
    """Returns the local folder for files that cannot be in a bucket."""
    return platformdirs.user_cache_path("mixer_jax").joinpath(
        "gs", *path.parts[2:]
    )


def failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions raised if reading or writing fails."""
    if "gcsfs" not in sys.modules:
        return (OSError, ValueError)
    import aiohttp
    from gcsfs.retry import HttpError
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return (
        OSError,
        ValueError,  # raised by TensorStore
        HttpError,
        aiohttp.ClientError,
        GoogleAPIError,
        GoogleAuthError,
    )


def reason(error: Exception) -> str:
    """Returns the cause of a failure in one line."""
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return "there is no such bucket or object"  # raised by gcsfs
    if isinstance(error, OSError) and error.filename is not None:
        return files.reason(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].split(" [")[0].rstrip(".")
    # A long line names the failure at its start and the cause at its end.
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-200:]}"


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Reports that a bucket cannot be reached.

    Raises:
      UserError: replaces an error from `failures` if `path` is in a bucket.
    """
    try:
        yield
    except UserError:
        raise
    except failures() as error:
        if not is_remote(path):
            raise
        raise UserError(
            f"{path} cannot be reached: {reason(error)}."
        ) from error


def check(path: Path) -> None:
    """Checks that a bucket exists and that this process may write to it.

    A folder's name may contain only characters that all libraries treat
    identically: no wildcards, spaces or characters that are special in URLs.

    Local paths are not checked.

    Raises:
      UserError: if the name is invalid, the bucket is missing or access is
        denied.
    """
    if not is_remote(path):
        return
    if not _PLAIN_OBJECT.fullmatch(str(path)):
        raise UserError(
            f"{path} cannot be used: a name in a bucket may contain only "
            "ASCII letters, digits and the characters ._-=,@~: (and / between "
            "folders). Choose another folder in the bucket."
        )
    from google.api_core.exceptions import NotFound
    from google.cloud import storage

    bucket = path.parts[2]
    try:
        storage.Client().get_bucket(bucket)
    except NotFound as error:
        raise UserError(
            f"{path} cannot be used: there is no bucket {_SCHEME}{bucket}; "
            "create it, or choose another bucket."
        ) from error
    except failures() as error:
        raise UserError(
            f"The bucket {_SCHEME}{bucket} cannot be accessed: "
            f"{reason(error)}. Use credentials with the roles Storage Object "
            "Admin and Storage Legacy Bucket Reader."
        ) from error
    mark = path / f".{secrets.token_hex(8)}"
    try:
        # Write with one library and remove with the other to test both.
        tensorstore.KvStore.open(kvstore(path)).result().write(
            mark.name, b""
        ).result()
        mark.unlink()
    except failures() as error:
        raise UserError(
            f"{path} cannot be written to: {reason(error)}. Use credentials "
            "with the role Storage Object Admin."
        ) from error
