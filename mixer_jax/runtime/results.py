"""Results of commands: written to their destination, or rescued elsewhere."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from mixer_jax.runtime import command, files
from mixer_jax.runtime.errors import LostError, PassingError, UserError

_SPARE = 1.1  # required free space, as a multiple of a result's size


def deliver(
    path: str | os.PathLike, writer: files.Writer, subject: str
) -> None:
    """Writes a command's result; if that fails, saves it elsewhere.

    Args:
      path: the destination, already tested by `files.check`.
      writer: see `files.write`; may be called again with another path.
      subject: the subject of the error message, as in "The report".

    Raises:
      UserError: if the destination cannot be written; names the file where the
        result was saved instead, if any.
    """
    with rescuing(path, writer, subject):
        files.write(path, writer)


@contextlib.contextmanager
def rescuing(
    path: str | os.PathLike, writer: files.Writer, subject: str
) -> Iterator[None]:
    """Writes a result elsewhere if the block fails; see `deliver`."""
    try:
        yield
    except (OSError, UserError) as error:
        kept = rescue(pathlib.Path(path).name, writer)
        raise unwritable(subject, path, error, kept) from error


def deliver_all(
    folder: str | os.PathLike, writers: Mapping[str, files.Writer], subject: str
) -> None:
    """Writes the files of a command's result; see `deliver`.

    No file is replaced until all are written. If one cannot be written, all
    are saved together in another place.

    Args:
      folder: the destination, already tested by `files.check_folder`.
      writers: maps file names to writers; the first file is replaced last.
      subject: see `deliver`.

    Raises:
      UserError: see `deliver`.
    """

    def fill(place: pathlib.Path) -> None:
        place.mkdir()
        for name, writer in writers.items():
            writer(place / name)

    with rescuing(folder, fill, subject), contextlib.ExitStack() as drafts:
        for name, writer in writers.items():
            path = os.path.join(folder, name)
            drafts.enter_context(files.prepared(path, writer))


def rescue(name: str, writer: files.Writer) -> pathlib.Path | None:
    """Saves a file or folder in the working or the temporary directory.

    Args:
      name: the name of the file or folder; "result" instead of "" or "..".
      writer: called with a path; writes the file or folder there.

    Returns:
      The path; None if neither directory can be written.
    """
    for place in (os.getcwd, tempfile.gettempdir):
        with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
            # Either directory may be missing; getcwd and gettempdir then raise.
            folder = tempfile.mkdtemp(prefix="rescued-", dir=place())
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            kept = pathlib.Path(folder, name if name.strip(".") else "result")
            writer(kept)
            undo.pop_all()
            return kept
    return None


def require_room(folder: str | os.PathLike, need: float, subject: str) -> str:
    """Checks that the disk has enough space for a result.

    Args:
      folder: the folder of the result; it may be missing.
      need: the size in bytes.
      subject: what is written, plural, as in "The features of 3 images".

    Returns:
      A sentence with the size and the free space.

    Raises:
      UserError: if the disk has less space; gives both sizes.
    """
    target = files.resolve(folder)
    while not target.exists():
        target = target.parent
    free = shutil.disk_usage(target).free
    message = (
        f"{subject} need {need / 1e9:.2f} GB in {os.fspath(folder)}, which has "
        f"{free / 1e9:.2f} GB free"
    )
    if free < _SPARE * need:
        raise UserError(
            f"{message}. Free up space, or choose a folder on a larger disk."
        )
    return f"{message}."


def unwritable(
    subject: str,
    path: str | os.PathLike,
    error: OSError | UserError,
    kept: pathlib.Path | None = None,
) -> UserError:
    """Returns an error that explains why a destination cannot be written."""
    known = UserError
    if isinstance(error, LostError | PassingError):
        known = type(error)
    if isinstance(error, UserError):
        message = str(error)
    else:
        message = _refused(subject, path, error)
    if kept is not None:
        message += f" The result was saved as {kept}; move it from there."
    return known(message)


def _refused(subject: str, path: str | os.PathLike, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in command.NO_ROOM:
        with contextlib.suppress(OSError):
            reason += f" ({files.room(path)})"
    return f"{subject} cannot be written to {os.fspath(path)}: {reason}."
