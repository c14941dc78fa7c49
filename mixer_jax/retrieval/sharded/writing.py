"""Writes the embeddings of a table, shard by shard, in all processes."""

import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh

from mixer_jax.data.prepared import version as version_lib
from mixer_jax.data.tables import table
from mixer_jax.retrieval import bundle
from mixer_jax.retrieval.embed import Written
from mixer_jax.retrieval.sharded import embedder, layout, plan, skips
from mixer_jax.retrieval.sharded.layout import Result, Shard
from mixer_jax.runtime import (
    identity,
    paths,
    processes,
    progress,
    results,
    terminal,
)
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import sharing
from mixer_jax.runtime.tabular import references
from mixer_jax.training.checkpoint.checkpoints import Trained

SHARD_ROWS = 8192  # by default
_PART_BYTES = 4096  # size of a part without its IDs and embeddings


def write(
    trained: Trained,
    path: str | os.PathLike,
    out: str | os.PathLike,
    mesh: Mesh,
    *,
    batch_size: int,
    shard_rows: int = SHARD_ROWS,
    max_skipped: float | None = None,
) -> Written | None:
    """Embeds a table's samples into a folder; resumes an interrupted run.

    All processes of a command call this; each of n processes embeds every n-th
    shard. Shards whose rows and images are unchanged are kept. No process holds
    more than one shard in memory.

    Args:
      trained: the model.
      path: the sample table.
      out: the folder, which all processes share; may be in a bucket.
      mesh: all devices of all processes.
      batch_size: samples embedded at once on all devices.
      shard_rows: the number of rows per shard.
      max_skipped: the maximum share of samples that may be left out because of
        unreadable images; None for the value in the model's config.

    Returns:
      A summary; None in processes other than 0.

    Raises:
      UserError: if the table is invalid, the folder belongs to another model
        or other options, the disk has too little space, or too many images
        are unreadable.
    """
    config, folder = trained.config, paths.make(out)
    limit = config.data.max_skipped if max_skipped is None else max_skipped
    settings = layout.Settings(
        fingerprint=bundle.fingerprint(trained),
        step=trained.step,
        D=config.model.dim,
        max_pixels=config.data.max_pixels,
        shard_rows=shard_rows,
        batch_size=batch_size,
        device_rows=-(-batch_size // mesh.size),
    )
    try:
        with paths.reaching(folder):
            return _write(trained, path, folder, settings, limit)
    except OSError as error:
        raise UserError(
            f"The embeddings cannot be written to {folder}: "
            f"{paths.reason(error)}. Fix this, then run the same command "
            "again to resume."
        ) from error


def _write(
    trained: Trained,
    path: str | os.PathLike,
    folder: paths.Path,
    settings: layout.Settings,
    limit: float,
) -> Written | None:
    place, count = processes.place()
    if place == 0:
        layout.begin(folder, settings)
        image_roots = trained.config.data.image_roots
        plan.make(path, folder, settings.shard_rows, image_roots)
    processes.barrier("plan", processes.PATIENCE)
    sharing.check(
        folder,
        "The folder",
        "all processes write embeddings to it. Use a bucket, as in "
        "--out=gs://BUCKET/embeddings, or a network file system.",
    )
    settings = layout.begin(folder, settings)
    shards = plan.read(folder)
    skipping = skips.Limit(
        pathlib.Path(path), sum(shard.rows for shard in shards), limit
    )
    job = _Job(folder, table.folder(path), settings, skipping)
    missing = job.find_missing(shards[place::count])
    missing_bytes = sum(map(job.size, missing))
    processes.barrier("checked", processes.PATIENCE)
    found = processes.gather("missing", [len(missing), missing_bytes])
    number, need = map(sum, zip(*found, strict=True))
    if place == 0:
        _prepare(folder, shards, number, need)
    processes.gather("prepared", None)
    if missing:
        job.embed(trained, missing)
    processes.barrier("shards", processes.PATIENCE)
    if place != 0:
        return None
    return _finish(folder, settings, shards, skipping)


class _Job:
    """Embeds shards in this process."""

    def __init__(
        self,
        folder: paths.Path,
        root: pathlib.Path,
        settings: layout.Settings,
        skipping: skips.Limit,
    ):
        """Stores the settings common to all shards.

        Args:
          folder: the folder of the embeddings.
          root: the folder that image paths are relative to.
          settings: the settings of the folder.
          skipping: limits the number of samples that are left out.
        """
        self._folder, self._root, self._settings = folder, root, settings
        self._skipping = skipping

    def size(self, shard: Shard) -> int:
        """Returns the approximate size of a shard's part in bytes."""
        embeddings = 4 * self._settings.D * shard.rows
        return _PART_BYTES + embeddings + shard.id_bytes + 8 * shard.rows

    def find_missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns the shards that are unfinished, damaged or outdated."""
        rows = sum(shard.rows for shard in shards)
        missing = []
        with progress.show("Checking finished shards", rows) as count:
            for shard in shards:
                if not self._is_finished(shard):
                    missing.append(shard)
                count(shard.rows)
        return missing

    def _is_finished(self, shard: Shard) -> bool:
        result = layout.read_result(self._folder, shard)
        if result is None or result.key != shard.key:
            return False
        if layout.part_hash(self._folder, shard.name) != result.sha256:
            say(
                f"{self._folder / shard.name} is missing or damaged; "
                "embedding its samples again."
            )
            return False
        frame = plan.read_rows(self._folder, shard)
        stamp = self._stamp(frame)
        if stamp != result.stamp:
            digests = embedder.digests(frame, self._root)
            if _hash(digests) != result.images:
                return False
            result = dataclasses.replace(result, stamp=stamp)
            layout.write_result(self._folder, shard, result)
        limit = self._settings.max_pixels
        return not version_lib.newly_readable(result.skipped, self._root, limit)

    def _stamp(self, frame: pd.DataFrame) -> str:
        """Returns a hash of the images' sizes and times."""
        files = map(references.file_of, frame["image"])
        return _hash(identity.stat([self._root / f for f in files if f]))

    def embed(self, trained: Trained, shards: Sequence[Shard]) -> None:
        """Embeds and writes shards; unfinished shards leave no part behind."""
        embed = embedder.Embedder(
            trained, self._root, self._settings.device_rows
        )
        total = sum(shard.rows for shard in shards)
        left_out: list[layout.Skipped] = []
        with progress.show("Embedding samples", total) as count:
            for shard in shards:
                frame = plan.read_rows(self._folder, shard)
                stamp = self._stamp(frame)
                made = embed(frame, shard.role, count)
                # Stop early if this process alone exceeds the limit.
                left_out += made.skipped
                self._skipping.check(left_out)
                self._write(shard, frame, stamp, made)

    def _write(
        self,
        shard: Shard,
        frame: pd.DataFrame,
        stamp: str,
        made: embedder.Embedded,
    ) -> None:
        kept = np.ones(len(frame), bool)
        kept[made.places] = False
        embeddings = made.embeddings[kept]
        if not np.isfinite(embeddings).all():
            raise UserError(
                "The model produces embeddings that are not finite; train it "
                "again with a smaller learning rate."
            )
        ids = frame["sample_id"].to_numpy(object)[kept]
        content = _part(ids, embeddings)
        layout.write_bytes(self._folder / shard.name, content)
        result = Result(
            key=shard.key,
            rows=len(embeddings),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            stamp=stamp,
            images=_hash(made.digests),
            skipped=made.skipped,
        )
        layout.write_result(self._folder, shard, result)


def _part(ids: np.ndarray, embeddings: np.ndarray) -> bytes:
    """Returns the Parquet file of IDs and embeddings `[n, D]`."""
    flat = pa.array(embeddings.reshape(-1), pa.float32())
    rows = pa.table(
        {
            layout.ID: pa.array(ids, pa.string()),
            layout.EMBEDDING: pa.FixedSizeListArray.from_arrays(
                flat, embeddings.shape[1]
            ),
        }
    )
    content = io.BytesIO()
    pq.write_table(
        rows,
        content,
        # Embeddings hardly compress.
        compression="none",
        use_dictionary=False,
        write_statistics=[layout.ID],
        write_page_checksum=True,
    )
    return content.getvalue()


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _prepare(
    folder: paths.Path, shards: Sequence[Shard], number: int, need: int
) -> None:
    """Prints what will be written, and removes parts of other shards."""
    if number < len(shards):
        say(f"{len(shards) - number} of {len(shards)} shards are finished.")
    if number:
        rows = sum(shard.rows for shard in shards)
        subject = f"{number} shards of the embeddings of {rows:,} samples"
        if paths.is_remote(folder):
            say(f"{subject} need {need / 1e9:.2f} GB in {folder}.")
        else:
            say(results.require_room(folder, need, subject))
    # The folder is not complete until `_finish`.
    wanted = {shard.name for shard in shards}
    others = layout.parts(folder) - wanted
    if number or others:
        (folder / layout.MANIFEST).unlink(missing_ok=True)
    for name in others:
        (folder / name).unlink()
    names = {shard.result_name for shard in shards}
    for name in layout.result_names(folder) - names:
        (folder / name).unlink()


def _located(
    folder: paths.Path, shard: Shard, result: Result
) -> Sequence[layout.Skipped]:
    """Returns the samples left out of a shard, with their current rows.

    Rows may have been inserted above them since the shard was embedded.
    """
    if not result.skipped:
        return ()
    rows = plan.read_rows(folder, shard).reset_index(names="row")
    rows = rows.set_index("sample_id")[["row", "image"]]
    return [
        one._replace(
            row=int(rows.at[one.sample_id, "row"]),
            image=rows.at[one.sample_id, "image"],
        )
        for one in result.skipped
    ]


def _finish(
    folder: paths.Path,
    settings: layout.Settings,
    shards: Sequence[Shard],
    skipping: skips.Limit,
) -> Written:
    """Completes the folder, unless too many samples were left out."""
    made = [layout.read_result(folder, shard) for shard in shards]
    ours = [
        result is not None and result.key == shard.key
        for result, shard in zip(made, shards, strict=True)
    ]
    if not all(ours):
        lost = shards[ours.index(False)].name
        raise UserError(
            f"{folder / lost} was removed during the run; run the same command "
            "again to resume."
        )
    left_out = [
        one
        for shard, result in zip(shards, made, strict=True)
        for one in _located(folder, shard, result)
    ]
    left_out.sort()
    skipped = skipping.describe(left_out)
    listing = folder / layout.SKIPPED
    if left_out:
        layout.write_bytes(listing, skips.csv_text(left_out).encode())
    else:
        listing.unlink(missing_ok=True)
    whole = list(zip(shards, made, strict=True))
    layout.write_manifest(folder, settings, whole)
    layout.remove_rows(folder)
    queries, documents = (
        sum(result.rows for shard, result in whole if shard.role == role)
        for role in (table.QUERY, table.DOCUMENT)
    )
    return Written(queries, documents, settings.D, skipped)


def say(text: str) -> None:
    """Prints a message about the progress."""
    terminal.say(text, console=terminal.Console(stderr=True))
