"""The files of a version, written by threads and processes."""

import os

import pytest

from mixer_jax.data.images import checking, faults
from mixer_jax.data.prepared import (
    build,
    shards,
    tfds_files,
)
from mixer_jax.data.stream import pipeline
from mixer_jax.runtime.errors import PassingError, UserError
from tests.data.prepared.samples import (
    contents,
    files_in,
    files_named,
    prepare,
)


def test_image_changed_during_preparation_raises_an_error(
    frame, root, monkeypatch
):
    write = shards.write

    def change(task):
        result = write(task)
        with open(root / "3.png", "ab") as file:
            file.write(b"more")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", change)
        with pytest.raises(PassingError, match=r"3\.png was changed while"):
            build.prepare(frame, root)
    want = contents(pipeline.FileSource(frame, root))
    assert contents(prepare(frame, root)) == want
    assert len(list((root / build.FOLDER).glob("*/*"))) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_do_not_depend_on_the_workers(frame, root, workers):
    options = build.Options(shards=2, workers=workers)
    made = [
        build.prepare(frame, root, root / name, options=one)
        for name, one in (("a", build.Options(shards=2)), ("b", options))
    ]
    first, second = (
        [
            (path.relative_to(m.folder), text)
            for path, text in files_in(m.folder)
        ]
        for m in made
    )
    assert first == second
    assert len(files_named(made[0])) == 4


def end_process(task):
    os._exit(9)


def test_a_killed_worker_is_reported(frame, root, monkeypatch):
    monkeypatch.setattr(shards, "write", end_process)
    with pytest.raises(PassingError, match="killed"):
        build.prepare(frame, root, options=build.Options(workers=1))


def test_unreadable_images_are_left_out_and_listed(frame, root):
    (root / "0.png").unlink()
    (root / "3.png").write_bytes(b"<html>not found</html>")
    made = build.prepare(frame, root)
    rows, errors = made.errors(root, frame["image"])
    assert rows.tolist() == [0, 3]
    kinds = [faults.MISSING, faults.NOT_AN_IMAGE]
    assert [error.kind for error in errors] == kinds
    want, skipped = checking.check_images(frame, root, 1.0)
    assert [str(error) for error in errors] == [
        line.split(": ", 1)[1] for line in skipped.examples
    ]
    source = made.source(want.index.to_numpy())
    assert contents(source) == contents(pipeline.FileSource(want, root))


def test_losing_files_while_writing_raises_an_error(frame, root, monkeypatch):
    describe = tfds_files.describe

    def lose(version, splits):
        describe(version, splits)
        for path in version.rglob("*array_record*"):
            path.unlink()

    monkeypatch.setattr(tfds_files, "describe", lose)
    with pytest.raises(UserError, match="right after it was written"):
        build.prepare(frame, root)
