"""TensorFlow Datasets can read prepared data."""

import json
import subprocess
import sys

import tensorflow_datasets as tfds

from mixer_jax.data.prepared import tfds_files
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


def test_the_description_is_what_tfds_writes(frame, root, tmp_path):
    prepare(frame, root)
    (folder,) = (root / "prepared").glob("*/*/sample_table/1.0.0")
    info = tfds.builder_from_directory(folder).info
    (tmp_path / "again").mkdir()
    info.write_to_directory(tmp_path / "again")
    for name in (tfds_files.INFO, tfds_files.FEATURES):
        ours, theirs = (
            json.loads((place / name).read_text())
            for place in (folder, tmp_path / "again")
        )
        # Only a builder that prepares data adds these.
        for key in ("moduleName", "redistributionInfo"):
            theirs.pop(key, None)
        assert ours == theirs


def test_slow_libraries_are_not_imported():
    """Processes that write shards do not need pandas either."""
    script = (
        "import sys; import mixer_jax.data.prepare; "
        "from mixer_jax.data.prepared import shards; "
        "assert 'pandas' not in sys.modules; "
        "from mixer_jax.data.prepared import build; "
        "slow = {'jax', 'tensorflow', 'tensorflow_datasets'}; "
        "assert not slow & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
