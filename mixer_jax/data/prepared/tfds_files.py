"""Describes prepared files for TensorFlow Datasets (TFDS).

    tfds.builder_from_directory(".../sample_table/1.0.0")

Neither writing nor reading them needs TensorFlow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info

from mixer_jax.data.tables import table
from mixer_jax.runtime import paths

FOLDER = Path("sample_table") / "1.0.0"  # within a version


def describe(
    version: Path, splits: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    """Writes TFDS's description of a version's files.

    One TFDS split holds all parts of a split. Images stay encoded.

    Args:
      version: the version's folder.
      splits: the number of records and bytes of each file, by split.
    """
    folder = paths.plain(version / FOLDER)
    features = {name: tfds.features.Text() for name in table.COLUMNS}
    features["image"] = tfds.features.Image()
    features["box"] = tfds.features.Text()  # "x1,y1,x2,y2"; "" for none
    info = tfds.core.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=FOLDER.parent.name,
            version=tfds.core.Version(FOLDER.name),
            data_dir=str(folder),
            module_name="",
        ),
        description="The rows of a sample table.",
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    found = []
    for name, files in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=FOLDER.parent.name,
            split=name,
            filetype_suffix="array_record",
        )
        found.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[records for records, _ in files],
                num_bytes=sum(size for _, size in files),
                filename_template=template,
            )
        )
    info.set_splits(tfds.core.splits.SplitDict(found))
    info.write_to_directory(folder)
