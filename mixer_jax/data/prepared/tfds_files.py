"""Describes prepared files for TensorFlow Datasets (TFDS).

    tfds.builder_from_directory(".../sample_table/1.0.0")

Neither writing nor reading them needs TensorFlow. The description is written
here in TFDS's format, because importing TFDS takes longer than preparing a
thousand small images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_jax.data.prepared import records
from mixer_jax.runtime import files

FOLDER = Path("sample_table") / "1.0.0"  # within a version
INFO, FEATURES = "dataset_info.json", "features.json"
_CLASSES = "tensorflow_datasets.core.features"


def describe(
    version: Path, splits: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    """Writes TFDS's description of a version's files.

    One TFDS split holds all parts of a split. Images stay encoded.

    Args:
      version: the version's folder.
      splits: the number of records and bytes of each file, by split.
    """
    info = {
        "description": "The rows of a sample table.",
        "disableShuffling": True,
        "fileFormat": "array_record",
        "name": FOLDER.parent.name,
        "splits": [_split(*one) for one in splits.items()],
        "version": FOLDER.name,
    }
    for name, content, indent in ((INFO, info, 2), (FEATURES, _features(), 4)):
        text = json.dumps(content, indent=indent, sort_keys=True)
        files.write_text(version / FOLDER / name, text)


def _split(name: str, parts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": name,
        "numBytes": str(sum(size for _, size in parts)),
        "shardLengths": [str(count) for count, _ in parts],
    }


def _features() -> dict[str, Any]:
    """Returns the description of a record's fields."""
    text = {"pythonClassName": f"{_CLASSES}.text_feature.Text", "text": {}}
    shape = {"dimensions": ["-1", "-1", "3"]}
    image = {
        "image": {"dtype": "uint8", "shape": shape},
        "pythonClassName": f"{_CLASSES}.image_feature.Image",
    }
    fields = dict.fromkeys(records.FIELDS, text) | {"image": image}
    return {
        "featuresDict": {"features": fields},
        "pythonClassName": f"{_CLASSES}.features_dict.FeaturesDict",
    }
