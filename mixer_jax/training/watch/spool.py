"""Append-only files of a run whose workdir is in a bucket.

Objects in a bucket cannot be appended to. A run therefore appends to files in a
local folder, the spool. Changed files are copied to the bucket as a whole: some
before each checkpoint, the rest every half minute and at the end.
"""

import contextlib
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence

from mixer_jax.runtime import paths

_EVERY = 30.0  # seconds between copies


class Spool:
    """A local folder that is copied to a workdir; a context manager.

    If the workdir is local, the folder is the workdir, and nothing is copied.

    Attributes:
      folder: the folder to write to.
    """

    def __init__(
        self,
        workdir: paths.Path,
        appended: Sequence[str] = (),
        say: Callable[[str], None] = print,
        check: Callable[[], None] = lambda: None,
    ):
        """Creates the folder.

        Args:
          workdir: the run's workdir.
          appended: names of the files that a resumed run appends to; those that
            exist are copied from the workdir.
          say: called with a message if a file cannot be copied.
          check: raises a `LostError` if another run has taken over the workdir,
            whose files then stay unchanged.

        Raises:
          UserError: if the workdir cannot be reached.
        """
        self._workdir, self._say, self._check = workdir, say, check
        self._remote = paths.is_remote(workdir)
        self.folder = workdir
        if not self._remote:
            return
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mixer_jax-"))
        for name in appended:
            with (
                paths.reaching(workdir),
                contextlib.suppress(FileNotFoundError),
            ):
                content = (workdir / name).read_bytes()
                (self.folder / name).write_bytes(content)
        self._sent: dict[str, tuple[int, int]] = {}  # {name: (size, time)}
        self._locks: dict[str, threading.Lock] = {}
        self._failed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Spool":
        if self._remote:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._remote:
            return
        self._over.set()
        self._thread.join()
        if self._send_all():
            shutil.rmtree(self.folder)
        else:
            self._say(f"Files that could not be copied are in {self.folder}.")

    def send(self, name: str) -> bool:
        """Copies a file now, if it exists and has changed.

        Returns:
          Whether the workdir is up to date. Only the first of several
          consecutive failures is reported.
        """
        if not self._remote:
            return True
        path = self.folder / name
        with self._locks.setdefault(name, threading.Lock()):
            if not path.exists():
                return True
            about = path.stat()
            # Recorded before the read, so that later records count as a change.
            state = (about.st_size, about.st_mtime_ns)
            if self._sent.get(name) == state:
                return True
            try:
                self._check()
                (self._workdir / name).write_bytes(path.read_bytes())
            except paths.failures() as error:
                if not self._failed:
                    self._say(
                        f"{self._workdir / name} cannot be written at present: "
                        f"{paths.reason(error)}."
                    )
                self._failed = True
                return False
            self._sent[name] = state
            self._failed = False
            return True

    def _send_all(self) -> bool:
        names = [
            str(path.relative_to(self.folder))
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]
        return all([self.send(name) for name in names])

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            self._send_all()
