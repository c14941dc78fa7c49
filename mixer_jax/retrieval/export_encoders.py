"""Export of a stage's encoders in the file layout of the original models.

FOLDER/image_encoder/  config.json, model.safetensors, preprocessor_config.json
FOLDER/text_encoder/   config.json, model.safetensors
FOLDER/encoders.json   workdir, step, and the exported encoders

Each encoder can be loaded with transformers' `AutoModel.from_pretrained`, or by
setting `model.image.pretrained` or `model.text.pretrained` in a config.
"""

import json
import os
import pathlib
from typing import NamedTuple

from mixer_jax.models.encoders import registry
from mixer_jax.models.weights import originals
from mixer_jax.retrieval import folders, runs
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checkpoints

ENCODERS = "encoders.json"
KIND = folders.Kind(
    "export",
    ENCODERS,
    (*registry.FAMILIES, ENCODERS),
    ENCODERS,
    ("workdir", "step", "encoders"),
)


class Export(NamedTuple):
    """Contents and origin of an export."""

    workdir: paths.Path  # the stage's workdir, absolute
    step: int  # the checkpoint's step
    parts: tuple[str, ...]  # the exported encoders' folders
    without: tuple[str, ...]  # encoders missing from transformers


def write(run: str | os.PathLike, folder: str | os.PathLike) -> Export:
    """Writes the encoders of a run's last stage; replaces an existing export.

    Args:
      run: the workdir of a stage, or of a curriculum, whose last stage is used.
      folder: the folder to write atomically.

    Raises:
      UserError: if the checkpoint is missing or damaged, transformers has none
        of the encoders, or the folder has other contents or cannot be written.
    """
    folders.check(folder, KIND)
    workdir = paths.absolute(runs.find_models(run)[-1].workdir)
    trained = checkpoints.load_model(workdir)
    exported, without = {}, []
    for part, families in registry.FAMILIES.items():
        encoder = getattr(trained.model, part)
        if encoder is None:
            continue
        family = originals.family_of(encoder, families)
        if family is None:
            without.append(f"{type(encoder).__name__} ({part})")
        else:
            exported[part] = family, encoder.config
    if not exported:
        raise UserError(
            f"No encoder of {workdir} can be exported: transformers has no "
            f"{' and no '.join(without)}."
        )
    result = Export(workdir, trained.step, tuple(exported), tuple(without))
    meta = {
        "workdir": str(workdir),
        "step": result.step,
        "encoders": result.parts,
    }

    def write_files(draft: pathlib.Path) -> None:
        for part, (family, config) in exported.items():
            variables = {
                collection: tree[part]
                for collection, tree in trained.variables.items()
                if part in tree
            }
            (draft / part).mkdir()
            originals.save(draft / part, family, config, variables)
        text = json.dumps(meta, indent=2) + "\n"
        (draft / ENCODERS).write_text(text, "utf-8")

    folders.write(folder, KIND, write_files)
    return result
