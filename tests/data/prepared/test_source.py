"""Prepared samples equal those of the image files."""

import pickle

import numpy as np
import pytest

from mixer_jax.data.prepared import (
    build,
)
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import samples, table
from mixer_jax.runtime.errors import UserError
from tests.data.prepared.samples import (
    contents,
    prepare,
)


def test_prepared_source_matches_the_image_files(frame, root, tmp_path, capfd):
    want = contents(pipeline.FileSource(frame, root))
    source = prepare(frame, root, tmp_path / "out")
    assert contents(source) == want
    assert source[4][0] == b""
    files = {path.name for path in (tmp_path / "out").rglob("*array_record*")}
    assert files == {
        "sample_table-train.array_record-00000-of-00001",
        "sample_table-test-x.array_record-00000-of-00001",
    }
    assert "ownload" not in "".join(capfd.readouterr())


def test_rows_of_a_selected_split_stay_aligned(frame, root):
    train = table.select(frame, "train").iloc[::-1]
    want = contents(pipeline.FileSource(train, root))
    assert contents(prepare(train, root)) == want
    assert (root / "prepared").is_dir()


def test_prepared_source_yields_the_same_batches_as_files(frame, root):
    train = table.select(frame, "train")
    tokenizer = text.load("minilm", 6)
    columns = samples.from_frame(train)
    options = {"image_size": 16, "batch_size": 4, "augment": "strong"}
    first, second = (
        pipeline.train_batches(columns, source, tokenizer, **options)
        for source in (
            pipeline.FileSource(train, root),
            prepare(train, root),
        )
    )
    for _ in range(4):
        a, b = next(first), next(second)
        for role in ("query", "document"):
            for name, leaf in a[role].items():
                np.testing.assert_array_equal(leaf, b[role][name])


def test_reading_a_damaged_sample_raises_a_user_error(frame, root):
    source = prepare(frame, root)
    for path in (root / build.FOLDER).rglob("*array_record*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read .*remove that folder"):
        contents(pickle.loads(pickle.dumps(source)))


def test_rows_that_were_left_out_cannot_be_read(frame, root):
    (root / "3.png").write_bytes(b"")
    made = build.prepare(frame, root)
    with pytest.raises(ValueError, match="left out"):
        made.source()
