"""Prepares a table's samples once: checks, files and a manifest.

A few files with random access replace thousands of small image files. Each
image is decoded here, once; later starts open the files without decoding.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mixer_jax.data.prepared import (
    generations,
    planning,
    shards,
    tasks,
    tfds_files,
    writing,
)
from mixer_jax.data.prepared import version as version_lib
from mixer_jax.data.prepared import work as work_lib
from mixer_jax.data.prepared.version import Prepared
from mixer_jax.data.prepared.writing import Draft, Options, Peers
from mixer_jax.runtime import identity, paths, terminal
from mixer_jax.runtime.errors import NewerFormatError, UserError

FOLDER = "prepared"  # next to the table, unless the config says otherwise
Say = generations.Say
_DEFAULT = Options()


def prepare(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike = "",
    *,
    data: identity.Data | None = None,
    options: Options = _DEFAULT,
    say: Say | None = None,
    peers: Peers | None = None,
) -> Prepared:
    """Prepares a frame's samples unless they are already prepared.

    Each combination of table and splits has a folder in `prepared`, with a
    subfolder per version, named by the identity of the rows and images. A new
    version is created atomically; `Prepared.remove_others` removes older ones.
    Rows of an older version are copied instead of decoded. After an
    interruption, the same call resumes.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      prepared: the folder for the files; `root/prepared` if empty.
      data: the identity of the rows; computed if None.
      options: how samples are prepared.
      say: called with messages; prints to standard error by default.
      peers: other processes that write shards, unless the samples are already
        prepared.

    Returns:
      The prepared samples, without those whose images cannot be decoded.

    Raises:
      UserError: if the folder cannot be written, or it has these rows and
        images in a newer format.
    """
    job = _job(frame, root, prepared, data, options, say)
    with job.explaining():
        found = job.find()
        while found is None:
            paths.make_folder(job.group)
            job.make(peers)
            peers = None
            # Do not report changed images twice.
            found = job.silent().find()
    return found


def write_part(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike,
    data: identity.Data,
    draft: Draft,
    part: slice,
    options: Options = _DEFAULT,
) -> None:
    """Writes some of the shards of a draft.

    Args:
      frame: see `prepare`.
      root: see `prepare`.
      prepared: see `prepare`.
      data: see `prepare`.
      draft: the draft that `prepare` passed to `Peers.begin`.
      part: the shards to write.
      options: see `prepare`.

    Raises:
      UserError: if the folder cannot be written.
    """
    job = _job(frame, root, prepared, data, options, None)
    # Process 0 may know the table by another path.
    job = dataclasses.replace(job, group=job.place / draft.group)
    with job.explaining(), job.begin() as work:
        job.write(draft, work, work.plan[part])


def find(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike = "",
    *,
    data: identity.Data | None = None,
    options: Options = _DEFAULT,
) -> Prepared | None:
    """Returns a frame's prepared samples if they exist; see `prepare`."""
    with contextlib.suppress(NewerFormatError, OSError):
        return _job(frame, root, prepared, data, options, None).silent().find()
    return None


def _job(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike,
    data: identity.Data | None,
    options: Options,
    say: Say | None,
) -> "_Job":
    root = Path(root)
    data = data or identity.examine(frame, root)
    place = Path(prepared) if prepared else root / FOLDER
    group = place / _group(frame, root if prepared else "")
    return _Job(frame, root, place, group, data, options, say or _say)


@dataclasses.dataclass(frozen=True)
class _Job:
    """The arguments of `prepare`, and the folders derived from them."""

    frame: pd.DataFrame
    root: Path
    place: Path
    group: Path
    data: identity.Data
    options: Options
    say: Say

    def silent(self) -> "_Job":
        """Returns the same job without messages."""
        return dataclasses.replace(self, say=lambda text: None)

    @property
    def key(self) -> str:
        """Identifies the rows, the image sizes and the limit on pixels."""
        parts = [self.data.key, self.options.max_pixels]
        return identity.hash_json(parts)[:16]

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turns file system errors into `UserError`s."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The prepared data cannot be written to {self.place}: "
                f"{paths.reason(error)}. Free some space, or set the config's "
                "data.prepared to a folder with enough space."
            ) from error

    def find(self) -> Prepared | None:
        """Returns the version prepared for the frame, or None.

        It may belong to a table that has since been moved or renamed.
        """
        groups = sorted(self.place.iterdir()) if self.place.is_dir() else []
        for other in sorted(groups, key=lambda other: other != self.group):
            for name in names(other):
                if not name.startswith(f"{self.key}-"):
                    continue
                hold = generations.hold(other / name)
                if hold is None:
                    continue
                if found := self._open(other / name, hold):
                    return found
                hold.release()
        return None

    def _open(self, folder: Path, hold: generations.Hold) -> Prepared | None:
        """Returns a version, or None if it is damaged or its images changed."""
        manifest = generations.read_record(folder)
        compared = identity.compare(folder, self.data, strict=False)
        if compared.changed:
            self.say(_changed(compared.changed))
            return None
        prepared = None
        if manifest is not None and compared.known:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                prepared = version_lib.read(folder, hold, manifest)
        if prepared is None or len(prepared.rows) != len(self.frame):
            self.say(
                f"{folder} has missing or damaged files, or an older format; "
                "preparing the data again."
            )
            return None
        if self.options.shards not in (0, manifest["shards"]):
            return None
        if self.options.compact and manifest["superseded"]:
            return None
        limit = self.options.max_pixels
        if again := version_lib.newly_readable(
            prepared.skipped, self.root, limit
        ):
            self.say(
                f"{again} could not be read when the data was prepared; "
                "preparing the data again."
            )
            return None
        with contextlib.suppress(OSError):  # Possibly read-only.
            identity.write_notes(folder, compared.notes)
        return prepared._replace(owned=folder.parent == self.group)

    def make(self, peers: Peers | None) -> None:
        """Prepares the frame's samples in a new folder of the group."""
        stamp = hashlib.sha256(self.data.times.tobytes()).hexdigest()[:8]
        name = f"{self.key}-{stamp}"
        any_host = peers is not None
        with generations.draft(
            self.group, name, self.say, any_host=any_host
        ) as draft:
            if self.silent().find() is not None:  # Another run finished first.
                return
            version, results = draft / name, draft / "results"
            for folder in (version / tfds_files.FOLDER, results):
                folder.mkdir(parents=True, exist_ok=True)
            place = Draft(self.group.name, draft.name, name)
            with self.begin() as work:
                shards.clear(work.plan, version / tfds_files.FOLDER, results)
                if peers is not None:
                    peers.begin(place, self.data.key)
                    self.write(place, work, work.plan[peers.part])
                    peers.wait()
                made = self.write(place, work, work.plan, checked=any_host)
            writing.describe(
                *(self.frame, self.root, work.images, work.plan, made),
                *(work.now, version, self.options, work.earlier),
            )
            if not _is_readable(version):
                raise UserError(
                    f"The prepared data in {self.group} cannot be read right "
                    "after it was written. Check the disk, or set the "
                    "config's data.prepared to a folder on another disk."
                )
            try:
                version.rename(self.group / name)
            except OSError:
                # A process on another host finished first, or the existing
                # folder is damaged or stale.
                if not (self.group / name).is_dir():
                    raise
                if self.silent().find() is not None:
                    return
                version.rename(self.group / f"{name}-{secrets.token_hex(4)}")

    def begin(self) -> contextlib.AbstractContextManager[work_lib.Work]:
        """Yields the work to do; see `work.begin`."""
        return work_lib.begin(self.frame, self.data, self.group, self.options)

    def write(
        self,
        draft: Draft,
        work: work_lib.Work,
        plan: list[tasks.Shard],
        *,
        checked: bool = False,
    ) -> list[tasks.Result]:
        """Writes shards and returns their results.

        Args:
          draft: the draft.
          work: from `begin`.
          plan: some of the shards.
          checked: whether this run has checked all finished shards.
        """
        version = self.group / draft.folder / draft.version
        return writing.write(
            *(self.frame, self.root, work.images, plan, work.now, version),
            *(version.parent / "results", work.earlier, self.options),
            *(work.pool, checked),
        )


def _is_readable(folder: Path) -> bool:
    """Returns whether a newly written version can be read."""
    hold = generations.hold(folder)
    manifest = generations.read_record(folder)
    if hold is None or manifest is None:
        return False
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        version_lib.read(folder, hold, manifest)
        return True
    return False


def names(folder: Path) -> list[str]:
    """Returns the sorted names in a folder; empty if it cannot be read."""
    with contextlib.suppress(OSError):  # such as lost+found
        return sorted(os.listdir(folder))
    return []


def _changed(images: Sequence[str]) -> str:
    count = len(images)
    subject = "1 image has" if count == 1 else f"{count:,} images have"
    return (
        f"{subject} changed since the data was prepared, such as {images[0]}; "
        "preparing the data again."
    )


def _group(frame: pd.DataFrame, root: str | os.PathLike) -> str:
    """Returns the folder name for a table and its splits.

    Args:
      frame: the rows; `attrs["table"]` is the table's path, and
        `attrs["split"]` the selected split.
      root: the table's root; "" if the prepared folder is next to the table.
    """
    name = Path(frame.attrs.get("table", "") or "table").name
    splits = frame.attrs.get("split") or "-".join(
        sorted({*planning.split_names(frame)})
    )
    whole = [name, splits, root and os.path.abspath(root)]
    code = identity.hash_json(whole)[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', f'{name}-{splits}')[:80]}-{code}"


def _say(text: str) -> None:
    terminal.say(text, console=terminal.Console(stderr=True))
