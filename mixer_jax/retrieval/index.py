"""An index: a table's documents and their embeddings, stored in a folder.

INDEX/embeddings.npy  f32 [N, D], unit rows
INDEX/documents.csv   the documents, in the same order; see `COLUMNS`
INDEX/index.json      the format; the model's workdir, step and fingerprint; the
                      folder of the pictures; N and D; checksums of the others

The workdir and the pictures are found even after a move; see `places`.
"""

import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.images import checking
from mixer_jax.data.tables import rules, table
from mixer_jax.retrieval import bundle, embed, folders, places, runs
from mixer_jax.runtime import arrays, files, paths
from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.text import quoted
from mixer_jax.training.checkpoint import checkpoints, checksums

FORMAT = 1  # incremented on changes that older versions cannot read
EMBEDDINGS, DOCUMENTS, INDEX = "embeddings.npy", "documents.csv", "index.json"
KIND = folders.Kind(
    "index",
    INDEX,
    (EMBEDDINGS, DOCUMENTS, INDEX),
    INDEX,
    ("workdir", "step", "N", "D"),
)
COLUMNS = ("sample_id", "image", "text", "category_id", "group")
_KINDS = {
    "workdir": str | list,
    "step": int,
    "fingerprint": str,
    "sizes": list,
    "checksums": dict,
    "N": int,
    "D": int,
}
_LAYOUT = tables.Layout(COLUMNS, exact=True)
_COMMAND = "python -m mixer_jax.index"
_REMEDY = (
    "name the workdir of its model with --workdir=FOLDER, or rebuild the index "
    f"with {_COMMAND}."
)


class Index(NamedTuple):
    """Documents and their embeddings, computed from one checkpoint.

    Attributes:
      documents: N rows with the columns of `COLUMNS`, all strings; an image
        is a path relative to `images`, or "".
      embeddings: f32 `[N, D]`, unit rows.
      workdir: the workdir of the model's stage, absolute.
      step: the step of the model's checkpoint.
      images: the folder of the pictures, absolute.
      fingerprint: `bundle.fingerprint` of the model; "" if unknown.
      sizes: file sizes in bytes of the first pictures, see `places.sizes`; ()
        if unknown.
    """

    documents: pd.DataFrame
    embeddings: np.ndarray
    workdir: paths.Path
    step: int
    images: pathlib.Path
    fingerprint: str
    sizes: tuple[int, ...] = ()

    @property
    def pictures(self) -> list[str]:
        """The names of the pictures, for documents that have one."""
        return _pictures(self.documents)


def build(
    run: str | os.PathLike,
    path: str | os.PathLike,
    mesh: Mesh,
    split: str = "",
    batch_size: int = 256,
    max_skipped: float | None = None,
) -> tuple[Index, table.Skipped]:
    """Embeds the documents of a sample table.

    Args:
      run: the workdir of a stage, or of a curriculum, whose last stage is used.
      path: the sample table.
      mesh: the devices that batches are split over.
      split: the split of the documents, with all parts; "" for all splits.
      batch_size: documents embedded at once.
      max_skipped: the maximum share of documents with an unreadable image; None
        for the value in the model's config.

    Returns:
      The index, and a description of the documents with unreadable images.

    Raises:
      UserError: if the model or the table is missing or invalid, there are no
        documents, or too many images are unreadable.
    """
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}; it must be positive.")
    workdir = paths.absolute(runs.find_models(run)[-1].workdir)
    path = paths.absolute(pathlib.Path(path))
    trained = runs.load(workdir, mesh)
    data = trained.config.data
    frame = table.read_table(path, data.image_roots)
    if split:
        frame = table.select(frame, split)
    frame = frame[frame["role"] == table.DOCUMENT]
    if frame.empty:
        where = f"split {split!r} of {path}" if split else path
        raise UserError(f"There are no documents in {where}.")
    limit = data.max_skipped if max_skipped is None else max_skipped
    frame, skipped = checking.check_images(
        frame, path.parent, limit, max_pixels=data.max_pixels
    )
    embedder = embed.make_embedder(trained, path.parent, mesh, batch_size)
    embeddings = embedder(frame)
    if not np.isfinite(embeddings).all():
        raise UserError(
            f"The model in {workdir} produces embeddings that are not finite; "
            "train it again with a smaller learning rate."
        )
    documents = frame[list(COLUMNS)].reset_index(drop=True)
    images, documents["image"] = _relative(documents["image"], path.parent)
    made = Index(
        documents=documents,
        embeddings=embeddings,
        workdir=workdir,
        step=trained.step,
        images=images,
        fingerprint=bundle.fingerprint(trained),
        sizes=tuple(places.sizes(images, _pictures(documents))),
    )
    return made, skipped


def _relative(
    images: pd.Series, folder: pathlib.Path
) -> tuple[pathlib.Path, pd.Series]:
    """Returns a folder that contains all images, and their paths below it."""
    absolute = images[images.str.startswith("/")]
    if absolute.empty:
        return folder, images
    above = os.path.commonpath([folder, *map(os.path.dirname, absolute)])

    def shorten(name: str) -> str:
        return os.path.relpath(folder / name, above) if name else ""

    return pathlib.Path(above), images.map(shorten)


def save(index: Index, folder: str | os.PathLike) -> None:
    """Writes the index atomically, replacing any existing one.

    Raises:
      UserError: if the folder has other contents or cannot be written.
    """
    count, dim = index.embeddings.shape
    meta = {
        "format": FORMAT,
        "workdir": places.save(index.workdir, folder),
        "images": places.save(index.images, folder),
        "step": index.step,
        "fingerprint": index.fingerprint,
        "sizes": list(index.sizes),
        "N": count,
        "D": dim,
    }

    def save_files(draft: pathlib.Path) -> None:
        np.save(draft / EMBEDDINGS, index.embeddings)
        tables.write(index.documents, draft / DOCUMENTS)
        sums = checksums.find(draft, (EMBEDDINGS, DOCUMENTS))
        text = json.dumps(meta | {"checksums": sums}, indent=2) + "\n"
        (draft / INDEX).write_text(text, "utf-8")

    folders.write(folder, KIND, save_files, rescue=True)


def load(
    folder: str | os.PathLike,
    workdir: str | os.PathLike = "",
    images: str | os.PathLike = "",
) -> Index:
    """Reads an index.

    Args:
      folder: the index's folder.
      workdir: the model's current workdir, of a stage or a curriculum; "" for
        the recorded workdir, relative to the index or absolute.
      images: the current folder of the pictures; "" for the recorded folder.

    Raises:
      UserError: if the index is missing or damaged, or its model or `images`
        is not found.
    """
    read = functools.partial(_read, folder)
    documents, embeddings, meta = folders.read_whole(folder, KIND, read)
    workdirs = places.load(meta["workdir"], folder)
    if workdir:
        workdirs = [paths.absolute(runs.find_models(workdir)[-1].workdir)]
    roots = _local(places.load(meta.get("images", "."), folder))
    names = _pictures(documents)
    return Index(
        documents=documents,
        embeddings=embeddings,
        workdir=_find_workdir(workdirs, meta["step"], folder),
        step=meta["step"],
        images=places.find_images(roots, names, meta["sizes"], images),
        fingerprint=meta["fingerprint"],
        sizes=tuple(meta["sizes"]),
    )


def _read(
    folder: str | os.PathLike,
) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Returns documents, embeddings and the contents of index.json."""
    find = functools.partial(folders.find, folder)
    if not find(INDEX).is_file():
        raise UserError(
            f"There is no index in {folder}; build one with {_COMMAND}."
        )
    try:
        meta = _read_meta(folder)
        # Check everything that `load` uses.
        places.load(meta["workdir"], folder)
        _local(places.load(meta.get("images", "."), folder))
        _compare(folder, meta["checksums"])
        embeddings = arrays.read(find(EMBEDDINGS))
        documents = tables.read(find(DOCUMENTS), _LAYOUT)
        _check_embeddings(embeddings, (meta["N"], meta["D"]))
        if len(documents) != len(embeddings):
            raise ValueError("its files do not match each other")
        # The first version stored absolute paths and no image folder.
        if "images" in meta:
            _check_names(documents["image"])
    except NewerFormatError:
        raise
    except (OSError, ValueError) as error:
        files.check_fetched(*map(find, KIND.names))
        raise UserError(
            f"The index in {folder} is damaged or has an unknown version "
            f"({error}); rebuild it with {_COMMAND}."
        ) from error
    return documents, embeddings, meta


def _read_meta(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the contents of index.json; raises `ValueError` if malformed."""
    path = folders.find(folder, INDEX)
    subject = f"The index in {folder}"
    remedy = f"rebuild it with {_COMMAND}"
    meta = files.read_record(path, FORMAT, subject, remedy)
    meta = {"fingerprint": "", "sizes": [], "checksums": {}} | meta
    for key, kind in _KINDS.items():
        if key not in meta:
            raise ValueError(f"{INDEX} has no {key!r}")
        value = meta[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key!r} of {INDEX} is {quoted(str(value))}")
    return meta


def _check_embeddings(embeddings: np.ndarray, shape: tuple[int, int]) -> None:
    if embeddings.shape != shape:
        raise ValueError("its files do not match each other")
    if embeddings.dtype != np.float32:
        raise ValueError(f"{EMBEDDINGS} is {embeddings.dtype}, not float32")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"{EMBEDDINGS} contains values that are not finite")


def _check_names(images: pd.Series) -> None:
    """Raises a `ValueError` if a path is outside the image folder."""
    outside = images[images.str.contains(rules.OUTSIDE)]
    if len(outside):
        raise ValueError(
            f"{DOCUMENTS} lists the image {quoted(outside.iloc[0])}, which is "
            "outside the image folder"
        )


def _pictures(documents: pd.DataFrame) -> list[str]:
    return [name for name in documents["image"] if name]


def _local(roots: list[paths.Path]) -> list[pathlib.Path]:
    if any(map(paths.is_remote, roots)):
        raise ValueError(f"the image folder in {INDEX} is in a bucket")
    return roots


def _compare(folder: str | os.PathLike, recorded: dict[str, list[int]]) -> None:
    """Raises a `ValueError` if a file does not match its checksum."""
    for name, sums in recorded.items():
        if name not in KIND.names:
            raise ValueError(f"{INDEX} lists an unknown file, {name!r}")
        parent = folders.find(folder, name).parent
        if checksums.find(parent, (name,))[name] != sums:
            raise ValueError(f"{name} does not match its checksum")


def _find_workdir(
    workdirs: list[paths.Path], step: int, folder: pathlib.Path
) -> paths.Path:
    """Finds the first workdir with a model at `step`, else with any model."""
    steps = {path: runs.latest_step(path) for path in workdirs}
    for wanted in ({step}, set(steps.values()) - {None}):
        for workdir, latest in steps.items():
            if latest in wanted:
                return workdir
    searched = " or ".join(map(str, workdirs))
    raise UserError(
        f"The model of the index in {folder} is missing: there is no "
        f"checkpoint in {searched}. Name its workdir with --workdir=FOLDER, or "
        f"rebuild the index with {_COMMAND}."
    )


def load_model(index: Index, mesh: Mesh) -> checkpoints.Trained:
    """Loads the model that an index was built with.

    Raises:
      UserError: if the model's workdir no longer has a checkpoint, or has one
        of another model.
    """
    step = runs.latest_step(index.workdir)
    if step != index.step:
        now = "no checkpoint" if step is None else f"step {step}"
        raise UserError(
            f"The index was built with the checkpoint of step {index.step} in "
            f"{index.workdir}, which now has {now}; {_REMEDY}"
        )
    trained = runs.load(index.workdir, mesh)
    same = index.fingerprint in ("", bundle.fingerprint(trained))
    if trained.config.model.dim != index.embeddings.shape[1] or not same:
        raise UserError(
            "The index was built with a different model than the current one "
            f"in {index.workdir}; {_REMEDY}"
        )
    return trained
