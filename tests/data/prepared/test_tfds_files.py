"""TensorFlow Datasets reads what was prepared."""

import subprocess
import sys

import tensorflow_datasets as tfds

from tests.data.prepared.samples import (
    prepare,
)


def test_tfds_can_read_the_files(frame, root):
    prepare(frame, root)
    (folder,) = (root / "prepared").glob("*/*/sample_table/1.0.0")
    source = tfds.builder_from_directory(folder).as_data_source("train")
    sample = source[0]
    assert sample["sample_id"].decode() == "q0"
    assert sample["split"].decode() == "train/a"
    assert sample["image"].shape == (8, 8, 3)


def test_tensorflow_is_not_imported():
    script = (
        "import sys; from mixer_jax.data.prepared import build; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
