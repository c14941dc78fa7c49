"""Export of a stage's proxies and their category IDs as plain files.

FOLDER/proxies.npy      f32 [C, D], without padding
FOLDER/categories.json  the C category IDs, in the order of the rows
FOLDER/export.json      workdir, step, C, D, dtype, a description of the rows

With n sub-centers per category, each row concatenates them: n D numbers.
"""

import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from mixer_jax.retrieval import folders, runs
from mixer_jax.runtime import paths
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings
from mixer_jax.training.checkpoint import row_files
from mixer_jax.training.checkpoint import workdir as workdir_lib

PROXIES, CATEGORIES, EXPORT = "proxies.npy", "categories.json", "export.json"
KIND = folders.Kind(
    "export",
    EXPORT,
    (PROXIES, CATEGORIES, EXPORT),
    EXPORT,
    ("workdir", "step", "C", "D"),
)
_MIN_LENGTH = 1e-6  # rows shorter than this have no meaningful direction


class Export(NamedTuple):
    """Contents and origin of an export."""

    workdir: paths.Path  # the stage's workdir, absolute
    step: int  # the checkpoint's step
    count: int  # C, the number of categories
    subcenters: int  # n, the number of proxies per category
    dim: int  # D, the size of a proxy


def write(
    run: str | os.PathLike, folder: str | os.PathLike, unit: bool = False
) -> Export:
    """Writes the proxies of a run's last stage; replaces an existing export.

    Proxies are copied in blocks, so they may exceed the host's memory; no
    accelerator is used.

    Args:
      run: the workdir of a stage, or of a curriculum, whose last stage is used.
      folder: the folder to write atomically.
      unit: whether to scale every proxy to length 1, as training does before
        computing cosines; otherwise proxies are written as trained.

    Raises:
      UserError: if the checkpoint is missing or damaged, a proxy is not
        finite, or the folder has other contents or cannot be written.
    """
    folders.check(folder, KIND)
    workdir = paths.absolute(runs.find_models(run)[-1].workdir)
    saved = row_files.open_proxies(workdir)
    config = workdir_lib.read_config(workdir)
    result = Export(
        workdir,
        saved.step,
        len(saved.category_ids),
        config.head.get("subcenters", 1),
        config.model.dim,
    )
    if saved.dim != result.subcenters * result.dim:
        raise UserError(
            f"{workdir} is inconsistent: its {workdir_lib.CONFIG} specifies "
            f"{result.subcenters} x {result.dim} numbers per category, but the "
            f"checkpoint of step {saved.step} has {saved.dim}. Restore "
            f"{workdir_lib.CONFIG} from a backup."
        )
    meta = {
        "workdir": str(workdir),
        "step": result.step,
        "C": result.count,
        "D": result.dim,
        "subcenters": result.subcenters,
        "dtype": "float32",
        "rows": (
            f"row i belongs to the i-th ID of {CATEGORIES}; "
            + ("scaled to length 1" if unit else "as trained")
        ),
    }

    def write_files(draft: pathlib.Path) -> None:
        # Do not use a memory map: with one, a full disk would kill the process
        # instead of raising an error.
        with open(draft / PROXIES, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file,
                {
                    "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
                    "fortran_order": False,
                    "shape": (result.count, saved.dim),
                },
            )
            for block in saved.blocks():
                if not np.isfinite(block).all():
                    raise UserError(
                        f"The proxies of step {saved.step} in {workdir} are "
                        "not all finite; train again with a smaller "
                        "proxies.learning_rate."
                    )
                if unit:
                    block = normalize(
                        block.reshape(-1, result.dim), _MIN_LENGTH
                    )
                file.write(np.ascontiguousarray(block, "<f4"))
        with open(draft / CATEGORIES, "w", encoding="utf-8") as file:
            file.writelines(strings.json_parts(saved.category_ids))
        (draft / EXPORT).write_text(json.dumps(meta, indent=2) + "\n", "utf-8")

    folders.write(folder, KIND, write_files)
    return result
