"""Versions that reuse files with superseded records."""

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from mixer_jax.data.prepared import build, content, planning, tfds_files, work
from mixer_jax.data.stream import pipeline
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity
from tests.data.prepared.samples import contents, files_in, files_named

_SIZE = 12  # rows per shard


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Makes small tables behave like large ones."""

    def cuts(hashes):
        return np.arange(_SIZE, len(hashes), _SIZE)

    monkeypatch.setattr(planning, "_cuts", cuts)
    monkeypatch.setattr(planning, "_COPIED_ROWS", 0)
    monkeypatch.setattr(planning, "_COPIED_SHARE", 0)
    monkeypatch.setattr(planning, "_EXTRA_ROWS", 2)


def texts(count=3 * _SIZE):
    rows = [
        (f"d{i}", "document", f"{i % 6}.png" * (i % 2), f"words {i}")
        for i in range(count)
    ]
    names = ["sample_id", "role", "image", "text"]
    frame = pd.DataFrame(rows, columns=names)
    frame = frame.assign(category_id="c", group="", split="train")
    return frame[list(table.COLUMNS)]


def edit(frame, *rows):
    frame = frame.copy()
    frame.loc[list(rows), "text"] += ", edited"
    return frame


def check(made, frame, root):
    """Compares prepared samples with those of the table's files."""
    want = contents(pipeline.FileSource(frame, root))
    assert contents(made.source()) == want
    columns, source = made.training()
    assert contents(source) == want
    assert len(columns) == len(frame)


def test_files_with_few_superseded_records_are_linked(root, monkeypatch):
    frame = texts()
    old = build.prepare(frame, root)
    edited = edit(frame, 4, 30)
    encoded, encode = [], content.records.encode
    monkeypatch.setattr(
        content.records,
        "encode",
        lambda cells, image: (
            encoded.append(cells["sample_id"]) or encode(cells, image)
        ),
    )
    new = build.prepare(edited, root)
    assert encoded == ["d4", "d30"]
    before, after = (
        [path.stat().st_ino for path in files_named(made)]
        for made in (old, new)
    )
    assert after[:3] == before
    assert [count for _, count in new.parts] == [12, 12, 12, 2]
    assert new.manifest["superseded"] == 2
    check(new, edited, root)
    found = build.find(edited, root)
    assert found.folder == new.folder


def test_too_many_superseded_records_are_removed(root):
    frame = texts()
    build.prepare(frame, root).remove_others()
    frame = edit(frame, 4, 30)
    build.prepare(frame, root).remove_others()
    frame = edit(frame, 5, 6, 18)
    made = build.prepare(frame, root)
    made.remove_others()
    # The first file has too many superseded rows; the others have one each.
    assert [count for _, count in made.parts] == [12, 12, 12, 2]
    assert made.manifest["superseded"] == 2
    check(made, frame, root)


def test_few_rows_are_copied_rather_than_superseded(root, monkeypatch):
    monkeypatch.setattr(planning, "_COPIED_ROWS", 11)
    frame = texts()
    build.prepare(frame, root)
    frame = edit(frame, 4)
    made = build.prepare(frame, root)
    assert [count for _, count in made.parts] == [12, 12, 12]
    assert made.manifest["superseded"] == 0
    fresh = build.prepare(frame, root, root / "fresh")
    assert bytes_of(made) == bytes_of(fresh)


def bytes_of(made):
    return [
        (path.relative_to(made.folder), content)
        for path, content in files_in(made.folder)
    ]


def test_a_compact_version_equals_a_fresh_one(root):
    """TFDS reads exactly the rows of a compact version, but rejects others."""
    frame = texts()
    build.prepare(frame, root)
    frame = edit(frame, 4, 30)
    made = build.prepare(frame, root)
    made.remove_others()
    with pytest.raises(Exception, match="dataset info"):
        tfds.builder_from_directory(made.folder / tfds_files.FOLDER)
    options = build.Options(compact=True)
    compact = build.prepare(frame, root, options=options)
    again = build.prepare(frame, root, options=options)
    assert again.folder == compact.folder != made.folder
    folder = made.folder
    del made
    compact.remove_others()
    assert not folder.exists()
    fresh = build.prepare(frame, root, root / "fresh")
    assert bytes_of(compact) == bytes_of(fresh)
    folder = compact.folder / tfds_files.FOLDER
    source = tfds.builder_from_directory(folder).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    read = [one["text"].decode() for one in source]
    assert read == frame["text"].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_depend_neither_on_workers_nor_on_interruptions(
    root, monkeypatch, workers
):
    frame = texts()
    edited = edit(frame, 4, 30)
    made = []
    for name, number in (("a", 0), ("b", workers)):
        build.prepare(frame, root, root / name)
        options = build.Options(workers=number)
        if name == "b":
            monkeypatch.setattr(work, "_FEW", 0)
            with monkeypatch.context() as patch:
                patch.setattr(build.writing, "describe", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    build.prepare(edited, root, root / name, options=options)
        made.append(build.prepare(edited, root, root / name, options=options))
    first, second = map(bytes_of, made)
    assert first == second
    check(made[0], edited, root)


def interrupt(*_):
    raise KeyboardInterrupt


def test_rows_of_damaged_files_are_read_again(root):
    frame = texts()
    old = build.prepare(frame, root)
    for path in files_named(old):
        damaged = bytearray(path.read_bytes())
        damaged[70:-1:7] = bytes(len(damaged[70:-1:7]))
        path.write_bytes(damaged)
    frame = edit(frame, 4, 30)
    made = build.prepare(frame, root)
    assert made.manifest["superseded"] == 0
    check(made, frame, root)


def test_samples_stay_right_while_a_table_changes(root, monkeypatch):
    monkeypatch.setattr(planning, "_SUPERSEDED", 0.25)
    rng = np.random.default_rng(0)
    frame, superseded = texts(60), []
    for step in range(9):
        made = build.prepare(frame, root)
        made.remove_others()
        check(made, frame, root)
        superseded.append(made.manifest["superseded"])
        frame = edit(frame, *rng.integers(len(frame), size=2))
        if step % 3 == 1:
            frame = frame.drop(index=int(rng.integers(len(frame))))
        if step % 3 == 2:
            more = texts(step + 200).iloc[-2:]
            at = int(rng.integers(len(frame)))
            frame = pd.concat([frame[:at], more, frame[at:]])
        if step == 6:
            frame = frame.iloc[::-1]
        frame = frame.reset_index(drop=True)
    assert max(superseded) > 2
    assert superseded[0] == 0


def test_skipped_rows_stay_left_out(root):
    (root / "3.png").write_bytes(b"")
    frame = texts()
    build.prepare(frame, root)
    frame = edit(frame, 4, 30)
    made = build.prepare(frame, root)
    skipped = frame["image"] == "3.png"
    rows, _ = made.errors(root, frame["image"])
    assert rows.tolist() == np.flatnonzero(skipped).tolist()
    data = identity.examine(frame, root)
    assert made.manifest["origin"]["split"]["rows"] == data.rows
    want = contents(pipeline.FileSource(frame[~skipped], root))
    source = made.source(np.flatnonzero(~skipped))
    assert contents(source) == want
