"""The files of a folder of embeddings.

    FOLDER/manifest.json                the format, the model, counts, checksums
    FOLDER/queries/part-00000.parquet   sample_id: string; embedding: D float32
    FOLDER/documents/part-00000.parquet  likewise
    FOLDER/skipped.csv                  the samples left out, if any
    FOLDER/.work/                       files needed to resume

A shard is a range of the table's rows of one role, stored as one part. The
manifest is written last and removed before a part is replaced: a folder with a
manifest is complete. Nothing in it depends on the number of processes that
wrote it, or on interruptions. The embeddings may depend on the number of
devices of the first run, which determines the batch size per device.

    .work/settings.json           see `Settings`
    .work/plan.json               the shards, see `plan`
    .work/rows/queries-00000.parquet  the rows of a shard, until it is embedded
    .work/done/queries-00000.json  the `Result` of a finished shard
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from typing import Any, NamedTuple

from mixer_jax.data.tables import table
from mixer_jax.runtime import files, paths
from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.runtime.ownership import owner_store
from mixer_jax.runtime.text import quoted

FORMAT = 1  # incremented on changes that older versions cannot read
MANIFEST, SKIPPED, WORK = "manifest.json", "skipped.csv", ".work"
SETTINGS, PLAN = f"{WORK}/settings.json", f"{WORK}/plan.json"
ROWS, DONE = f"{WORK}/rows", f"{WORK}/done"
FOLDERS = {table.QUERY: "queries", table.DOCUMENT: "documents"}
ID, EMBEDDING = "sample_id", "embedding"  # columns of the parts
REMEDY = "embed the table again with python -m mixer_jax.embed"

_KEYS = {"format", "fingerprint", "D", "files"}  # keys of a manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that all shards of a folder share.

    Attributes:
      fingerprint: `bundle.fingerprint` of the model.
      step: the training step of the model.
      D: the number of elements of an embedding.
      max_pixels: the maximum number of pixels per image.
      shard_rows: the number of rows per shard.
      batch_size: the number of samples per batch, over all devices.
      device_rows: the number of samples per batch and device in the first run,
        which later runs reuse.
      format: the version of the folder's format.
    """

    fingerprint: str
    step: int
    D: int
    max_pixels: int
    shard_rows: int
    batch_size: int
    device_rows: int
    format: int = FORMAT


class Shard(NamedTuple):
    """A range of a table's rows of one role.

    Attributes:
      role: the role of the samples.
      number: the number of the shard among those of the role, from 0.
      rows: the number of rows.
      id_bytes: the total length of their IDs.
      key: hash of the rows.
    """

    role: str
    number: int
    rows: int
    id_bytes: int
    key: str

    @property
    def name(self) -> str:
        """The name of the shard's part, relative to the folder."""
        return f"{FOLDERS[self.role]}/part-{self.number:05}.parquet"

    @property
    def rows_name(self) -> str:
        """The name of the file of the shard's rows."""
        return f"{ROWS}/{FOLDERS[self.role]}-{self.number:05}.parquet"

    @property
    def result_name(self) -> str:
        """The name of the file of the shard's result."""
        return f"{DONE}/{FOLDERS[self.role]}-{self.number:05}.json"


class Skipped(NamedTuple):
    """A sample whose image cannot be decoded.

    Attributes:
      row: the row in the table, from 0.
      sample_id: the sample.
      image: the path of the image, relative to the table.
      kind: one of `faults.KINDS`.
      reason: the error message without its leading path.
    """

    row: int
    sample_id: str
    image: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished shard.

    Attributes:
      key: the shard's key.
      rows: the number of embedded rows.
      bytes: the size of the part.
      sha256: the hash of the part.
      stamp: hash of the sizes and modification times of the images.
      images: hash of the images' bytes.
      skipped: the rows that were left out.
    """

    key: str
    rows: int
    bytes: int
    sha256: str
    stamp: str
    images: str
    skipped: tuple[Skipped, ...] = ()


def check(folder: paths.Path) -> None:
    """Checks that embeddings can be written to a folder.

    Raises:
      UserError: if it is a file, cannot be written to, or has contents other
        than embeddings.
    """
    if paths.is_remote(folder):
        paths.check(folder)
    else:
        files.check_folder(folder, "The embeddings")
    with paths.reaching(folder):
        if not folder.exists():
            return
        names = [
            path.name
            for path in folder.iterdir()
            if not owner_store.is_part(path)
        ]
        # Other processes may be checking whether they can write here.
        names = [name for name in names if name[0] != "." or name == WORK]
        ours = not names or WORK in names
        if not ours and MANIFEST in names:
            with contextlib.suppress(OSError, ValueError):
                found = json.loads((folder / MANIFEST).read_text("utf-8"))
                ours = isinstance(found, dict) and found.keys() >= _KEYS
    if not ours:
        raise UserError(
            f"{folder} has contents other than embeddings, such as "
            f"{quoted(min(names))}; choose another folder with --out, or empty "
            "this one."
        )


def begin(folder: paths.Path, settings: Settings) -> Settings:
    """Records the settings of a folder, unless they are already recorded.

    Returns:
      The settings with the `device_rows` of the first run.

    Raises:
      UserError: if the folder has other settings.
    """
    found = _read_settings(folder)
    made_with = settings.fingerprint
    if found is not None:
        made_with = found.fingerprint
    elif (folder / MANIFEST).exists():  # copied without its hidden files
        made_with = read_manifest(folder)["fingerprint"]
    if made_with != settings.fingerprint:
        other = f"another model (fingerprint {made_with})"
        raise _refusal(folder, f"were made with {other}")
    if found is None:
        text = json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
        write_bytes(folder / SETTINGS, text.encode())
        return settings
    for name in ("shard_rows", "batch_size"):
        before = getattr(found, name)
        if before != getattr(settings, name):
            flag = f"--{name.replace('_', '-')}={before}"
            raise _refusal(folder, f"were made with {flag}", f"use {flag}, ")
    if found.max_pixels != settings.max_pixels:
        limit = f"data.max_pixels={found.max_pixels}"
        raise _refusal(folder, f"were made with {limit}")
    return dataclasses.replace(settings, device_rows=found.device_rows)


def _read_settings(folder: paths.Path) -> Settings | None:
    with contextlib.suppress(FileNotFoundError):
        text = (folder / SETTINGS).read_text("utf-8")
        with contextlib.suppress(ValueError, TypeError):
            found = Settings(**json.loads(text))
            if found.format == FORMAT:
                return found
        raise _refusal(folder, f"have a damaged {SETTINGS} or another format")
    return None


def _refusal(folder: paths.Path, problem: str, remedy: str = "") -> UserError:
    return UserError(
        f"The embeddings in {folder} {problem}; {remedy}choose another folder "
        "with --out, or remove this one."
    )


def read_result(folder: paths.Path, shard: Shard) -> Result | None:
    """Returns the recorded result of a shard, or None if it is unusable."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        plain = json.loads((folder / shard.result_name).read_text("utf-8"))
        plain["skipped"] = tuple(Skipped(*one) for one in plain["skipped"])
        return Result(**plain)
    return None


def write_result(folder: paths.Path, shard: Shard, result: Result) -> None:
    """Records the result of a finished shard."""
    text = json.dumps(dataclasses.asdict(result))
    write_bytes(folder / shard.result_name, text.encode())


def write_bytes(path: paths.Path, content: bytes, *, sync: bool = True) -> None:
    """Writes a file atomically, and syncs it to disk if `sync` is set."""
    if paths.is_remote(path):
        path.write_bytes(content)
    else:
        files.write(
            path, lambda draft: draft.write_bytes(content), one_of_many=not sync
        )


def remove_rows(folder: paths.Path) -> None:
    """Removes the rows of all shards, needed only by an unfinished run."""
    for path in paths.glob(folder / ROWS, "*"):
        path.unlink(missing_ok=True)


def part_hash(folder: paths.Path, name: str) -> str:
    """Returns the SHA-256 of a part; "" if it cannot be read."""
    with contextlib.suppress(*paths.failures()):
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return ""


def parts(folder: paths.Path) -> set[str]:
    """Returns the names of all parts in a folder."""
    return {
        f"{role}/{path.name}"
        for role in FOLDERS.values()
        for path in paths.glob(folder / role, "part-*.parquet")
    }


def result_names(folder: paths.Path) -> set[str]:
    """Returns the names of all recorded results in a folder."""
    return {
        f"{DONE}/{path.name}" for path in paths.glob(folder / DONE, "*.json")
    }


def write_manifest(
    folder: paths.Path,
    settings: Settings,
    results: list[tuple[Shard, Result]],
) -> None:
    """Writes the manifest of a complete folder."""
    counts = dict.fromkeys(FOLDERS.values(), 0)
    for shard, result in results:
        counts[FOLDERS[shard.role]] += result.rows
    manifest = {
        "format": FORMAT,
        "fingerprint": settings.fingerprint,
        "step": settings.step,
        "D": settings.D,
        **counts,
        "skipped": sum(len(result.skipped) for _, result in results),
        "files": [
            {
                "name": shard.name,
                "rows": result.rows,
                "bytes": result.bytes,
                "sha256": result.sha256,
            }
            for shard, result in results
        ],
    }
    text = json.dumps(manifest, indent=1) + "\n"
    write_bytes(folder / MANIFEST, text.encode())


def read_manifest(name: str | os.PathLike) -> dict[str, Any]:
    """Returns the manifest of a complete folder.

    Raises:
      UserError: if it is missing, damaged or of a newer format.
    """
    folder = paths.make(name)
    try:
        manifest = files.read_record(
            folder / MANIFEST, FORMAT, f"The folder {folder}", REMEDY
        )
        if not manifest.keys() >= _KEYS:
            raise ValueError(f"{MANIFEST} does not describe embeddings")
        return manifest
    except NewerFormatError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no complete embeddings, because {MANIFEST} is "
            f"missing; {REMEDY} to resume."
        ) from error
    except (*paths.failures(), RecursionError) as error:
        raise UserError(
            f"{folder / MANIFEST} cannot be read ({error}); {REMEDY}."
        ) from error
