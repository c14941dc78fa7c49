"""An index: a table's documents and their embeddings, stored in a folder.

INDEX/embeddings.npy  f32 [N, D], unit rows
INDEX/documents.csv   the documents of these rows; see `COLUMNS`
INDEX/index.json      the model: its workdir, step and fingerprint; the folder
                      of the pictures; N and D; checksums of the other files

Workdir and pictures are found again after a move; see `places`.
"""

import functools
import hashlib
import json
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax import paths
from mixer_jax.data import images, table
from mixer_jax.errors import UserError
from mixer_jax.retrieval import embed, folders, places, runs
from mixer_jax.runtime import arrays, tables
from mixer_jax.training import checkpoints, checksums
from mixer_jax.training import workdir as workdir_lib

EMBEDDINGS, DOCUMENTS, INDEX = "embeddings.npy", "documents.csv", "index.json"
KIND = folders.Kind("index", INDEX, (EMBEDDINGS, DOCUMENTS, INDEX))
COLUMNS = ("sample_id", "image", "text", "category_id", "group")
_LAYOUT = tables.Layout(COLUMNS, exact=True)
_COMMAND = "python -m mixer_jax.index"
_REMEDY = (
    "name the workdir of its model with --workdir=FOLDER, or rebuild the index "
    f"with {_COMMAND}."
)
_MAX_TRIED = 100  # maximum number of pictures to look for in each folder


class Index(NamedTuple):
    """Documents and their embeddings, computed from one checkpoint.

    Attributes:
      documents: N rows with the columns of `COLUMNS`, all strings; an image
        is a path relative to `images`, or "".
      embeddings: f32 `[N, D]`, unit rows.
      workdir: of the model's stage, absolute.
      step: of its checkpoint.
      images: the folder of the pictures, absolute.
      fingerprint: hash of the model's variables; "" if unknown.
    """

    documents: pd.DataFrame
    embeddings: np.ndarray
    workdir: paths.Path
    step: int
    images: pathlib.Path
    fingerprint: str


class _Read(NamedTuple):
    """The content of an index's files; see `Index`."""

    documents: pd.DataFrame
    embeddings: np.ndarray
    workdirs: list[paths.Path]  # where the model may be now
    step: int
    roots: list[paths.Path]  # where the pictures may be now
    fingerprint: str


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
      run: a stage's workdir, or a curriculum's, to use its last stage.
      path: the sample table.
      mesh: batches are split over it.
      split: the split of the documents, with all parts; "" for all splits.
      batch_size: documents embedded at once.
      max_skipped: the maximum share of documents with an unreadable image; None
        for the trained config's.

    Returns:
      The index, and the documents dropped because of unreadable images.

    Raises:
      UserError: if the model or the table is missing or invalid, there are no
        documents, or too many images are unreadable.
    """
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}; it must be positive.")
    workdir = paths.absolute(runs.find_models(run)[-1].workdir)
    path = paths.absolute(pathlib.Path(path))
    frame = table.read_table(path)
    if split:
        frame = table.select(frame, split)
    frame = frame[frame["role"] == table.DOCUMENT]
    if frame.empty:
        where = f"split {split!r} of {path}" if split else path
        raise UserError(f"There is no document in {where}.")
    trained = checkpoints.load_model(workdir, mesh)
    data = trained.config.data
    limit = data.max_skipped if max_skipped is None else max_skipped
    frame, skipped = images.check_images(
        frame, path.parent, limit, max_pixels=data.max_pixels
    )
    embedder = embed.make_embedder(trained, path.parent, mesh, batch_size)
    embeddings = embedder(frame)
    if not np.isfinite(embeddings).all():
        raise UserError(
            f"The model in {workdir} gives embeddings that are not finite; "
            "train it again, with a smaller learning rate."
        )
    documents = frame[list(COLUMNS)].reset_index(drop=True)
    made = Index(
        documents=documents,
        embeddings=embeddings,
        workdir=workdir,
        step=trained.step,
        images=path.parent,
        fingerprint=_fingerprint(trained),
    )
    return made, skipped


def check_folder(folder: str | os.PathLike) -> None:
    """Raises a `UserError` unless `folder` is new, empty or an index."""
    folders.check(folder, KIND)


def save(index: Index, folder: str | os.PathLike) -> None:
    """Writes the index, whole or not at all; an older one is replaced.

    Raises:
      UserError: if the folder holds anything else or cannot be written.
    """
    count, dim = index.embeddings.shape
    meta = {
        "workdir": places.save(index.workdir, folder),
        "images": places.save(index.images, folder),
        "step": index.step,
        "fingerprint": index.fingerprint,
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
        the recorded one, relative to the index or absolute.
      images: the folder of the pictures; "" for the recorded one, likewise.

    Raises:
      UserError: if the index is missing or damaged, or its model or `images`
        is not found.
    """
    with folders.steady(folder):
        read = _read(folder)
    workdirs = read.workdirs
    if workdir:
        workdirs = [paths.absolute(runs.find_models(workdir)[-1].workdir)]
    return Index(
        documents=read.documents,
        embeddings=read.embeddings,
        workdir=_find_workdir(workdirs, folder),
        step=read.step,
        images=_find_images(read.roots, read.documents, images),
        fingerprint=read.fingerprint,
    )


def _read(folder: str | os.PathLike) -> _Read:
    """Returns what the files of an index hold."""
    found = functools.partial(folders.find, folder)
    if not found(INDEX).is_file():
        raise UserError(
            f"There is no index in {folder}; make one with {_COMMAND}."
        )
    try:
        meta = json.loads(found(INDEX).read_text("utf-8"))
        workdirs = places.load(meta["workdir"], folder)
        roots = places.load(meta.get("images", "."), folder)
        step, fingerprint = int(meta["step"]), str(meta.get("fingerprint", ""))
        shape = (meta["N"], meta["D"])
        _compare(folder, meta.get("checksums", {}))
        with arrays.reading(found(EMBEDDINGS)) as file:
            embeddings = np.load(file, allow_pickle=False)
            if file.read(1):
                raise ValueError("the array is shorter than its file")
        documents = tables.read(found(DOCUMENTS), _LAYOUT)
        if embeddings.shape != shape or len(documents) != len(embeddings):
            raise ValueError("its files do not belong together")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{EMBEDDINGS} holds numbers that are not finite")
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        OverflowError,
        RecursionError,
        UserError,
    ) as error:
        raise UserError(
            f"The index in {folder} is damaged ({error}); make it again with "
            f"{_COMMAND}."
        ) from error
    return _Read(documents, embeddings, workdirs, step, roots, fingerprint)


def _compare(folder: str | os.PathLike, noted: dict[str, list[int]]) -> None:
    """Raises a `ValueError` if a file differs from its checksum."""
    for name, sums in noted.items():
        if name not in KIND.names:
            raise ValueError(f"there is no file {name!r} in an index")
        place = folders.find(folder, name).parent
        if checksums.find(place, (name,))[name] != sums:
            raise ValueError(f"{name} differs from its checksum")


def missing_images(index: Index) -> str:
    """Returns a message about missing pictures, or ""."""
    names = [name for name in index.documents["image"] if name]
    gone = places.missing(index.images, names)
    if not gone:
        return ""
    return (
        f"{len(gone)} of {len(names)} pictures are missing in {index.images}, "
        f"such as {gone[0]}; search still works without them. If the pictures "
        "were moved, name their folder with --images=FOLDER."
    )


def _find_workdir(
    workdirs: list[paths.Path], folder: pathlib.Path
) -> paths.Path:
    for workdir in workdirs:
        if workdir_lib.latest_step(workdir) is not None:
            return workdir
    looked = " or ".join(map(str, workdirs))
    raise UserError(
        f"The model of the index in {folder} is missing: there is no "
        f"checkpoint in {looked}. Name its workdir with --workdir=FOLDER, or "
        f"rebuild the index with {_COMMAND}."
    )


def _find_images(
    roots: list[paths.Path], documents: pd.DataFrame, images: str | os.PathLike
) -> pathlib.Path:
    """Returns the first folder that has some of the pictures."""
    if images:
        root = paths.local(images, "A picture")
        if not root.is_dir():
            raise UserError(
                f"There is no folder {root}; name the folder of the pictures "
                "with --images=FOLDER."
            )
        return paths.absolute(root)
    names = [name for name in documents["image"] if name][:_MAX_TRIED]
    for root in roots:
        if any(os.path.isfile(root / name) for name in names):
            return root
    return roots[0]


def _fingerprint(trained: checkpoints.Trained) -> str:
    """Returns a hash of a model's variables."""
    digest = hashlib.blake2b(digest_size=16)
    leaves = jax.tree_util.tree_leaves_with_path(trained.variables)
    for path, leaf in leaves:
        array = jax.device_get(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_model(index: Index, mesh: Mesh) -> checkpoints.Trained:
    """Loads the model that made an index.

    Raises:
      UserError: if its workdir now has no checkpoint, or another one.
    """
    step = workdir_lib.latest_step(index.workdir)
    if step != index.step:
        now = "none" if step is None else f"that of step {step}"
        raise UserError(
            f"The index was built with the checkpoint of step {index.step} in "
            f"{index.workdir}, which now has {now}; {_REMEDY}"
        )
    trained = checkpoints.load_model(index.workdir, mesh)
    same = index.fingerprint in ("", _fingerprint(trained))
    if trained.config.model.dim != index.embeddings.shape[1] or not same:
        raise UserError(
            "The index was built with another model than the current one in "
            f"{index.workdir}; {_REMEDY}"
        )
    return trained
