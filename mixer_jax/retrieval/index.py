"""A table's documents, embedded and kept in a folder to be searched.

INDEX/embeddings.npy  f32 [N, D], unit rows
INDEX/documents.csv   the documents of these rows; see `COLUMNS`
INDEX/index.json      which model made them: its workdir, step, N and D
"""

import functools
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax import paths
from mixer_jax.data import images, table
from mixer_jax.errors import UserError
from mixer_jax.retrieval import embed, folders, runs
from mixer_jax.runtime import tables
from mixer_jax.training import checkpoints
from mixer_jax.training import workdir as workdir_lib

EMBEDDINGS, DOCUMENTS, INDEX = "embeddings.npy", "documents.csv", "index.json"
KIND = folders.Kind("index", INDEX, (EMBEDDINGS, DOCUMENTS, INDEX))
COLUMNS = ("sample_id", "image", "text", "category_id", "group")
_LAYOUT = tables.Layout(COLUMNS, exact=True)
_COMMAND = "python -m mixer_jax.index"


class Index(NamedTuple):
    """Documents and their embeddings by the model of one checkpoint.

    Attributes:
      documents: N rows with the columns of `COLUMNS`, all strings; an image
        is an absolute path, or "".
      embeddings: f32 `[N, D]`, unit rows.
      workdir: of the model's stage, absolute.
      step: of its checkpoint.
    """

    documents: pd.DataFrame
    embeddings: np.ndarray
    workdir: paths.Path
    step: int


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
      run: a stage's workdir, or a curriculum's, whose last stage is taken.
      path: the sample table.
      mesh: batches are split over it.
      split: whose documents are taken, all parts; "" is every split.
      batch_size: documents embedded at once.
      max_skipped: the largest share of documents whose image may be
        unreadable; None takes the trained config's.

    Returns:
      The index, and what was left out because its image cannot be read.

    Raises:
      UserError: if the model or the table is missing or wrong, there is no
        document, or too many images cannot be read.
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
    documents["image"] = [
        str(path.parent / name) if name else "" for name in frame["image"]
    ]
    return Index(documents, embeddings, workdir, trained.step), skipped


def check_folder(folder: str | os.PathLike) -> None:
    """Raises a `UserError` unless `folder` is new, empty or an index."""
    folders.check(folder, KIND)


def save(index: Index, folder: str | os.PathLike) -> None:
    """Writes the index, whole or not at all; an older one is replaced.

    Raises:
      UserError: if the folder holds anything else or cannot be written.
    """
    count, dim = index.embeddings.shape
    said = {
        "workdir": str(index.workdir),
        "step": index.step,
        "N": count,
        "D": dim,
    }

    def save_files(draft: pathlib.Path) -> None:
        np.save(draft / EMBEDDINGS, index.embeddings)
        tables.write(index.documents, draft / DOCUMENTS)
        (draft / INDEX).write_text(json.dumps(said, indent=2) + "\n", "utf-8")

    folders.write(folder, KIND, save_files, rescue=True)


def load(folder: str | os.PathLike) -> Index:
    """Reads an index.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    found = functools.partial(folders.find, folder)
    if not found(INDEX).is_file():
        raise UserError(
            f"There is no index in {folder}; make one with {_COMMAND}."
        )
    try:
        said = json.loads(found(INDEX).read_text("utf-8"))
        workdir, step = str(said["workdir"]), int(said["step"])
        shape = (said["N"], said["D"])
        embeddings = np.load(found(EMBEDDINGS), allow_pickle=False)
        documents = tables.read(found(DOCUMENTS), _LAYOUT)
        if embeddings.shape != shape or len(documents) != len(embeddings):
            raise ValueError("its files do not belong together")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{EMBEDDINGS} holds numbers that are not finite")
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        UserError,
    ) as error:
        raise UserError(
            f"The index in {folder} is damaged ({error}); make it again with "
            f"{_COMMAND}."
        ) from error
    return Index(documents, embeddings, paths.make(workdir), step)


def load_model(index: Index, mesh: Mesh) -> checkpoints.Trained:
    """Loads the model that made an index.

    Raises:
      UserError: if its workdir now has no checkpoint, or another one.
    """
    step = workdir_lib.latest_step(index.workdir)
    if step != index.step:
        now = "none" if step is None else f"that of step {step}"
        raise UserError(
            f"The index was made with the checkpoint of step {index.step} in "
            f"{index.workdir}, which now has {now}; make the index again with "
            f"{_COMMAND}."
        )
    trained = checkpoints.load_model(index.workdir, mesh)
    if trained.config.model.dim != index.embeddings.shape[1]:
        raise UserError(
            f"The index was made with another model than the one that is now "
            f"in {index.workdir}; make the index again with {_COMMAND}."
        )
    return trained
