"""Damaged arrays are recomputed, never used."""

import json
import shutil
import time

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.cache import array_files

# Ten rows of 24 bytes in two arrays: three blocks of three rows, and one row.
SHAPES = {"wide": ((10, 2, 2), "float32"), "narrow": ((10, 8), "bool")}
COUNT = 10


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Opens the folder as a run does; returns computed rows and messages."""
    monkeypatch.setattr(array_files, "BLOCK", 3 * 24)
    folder = tmp_path / "features"

    def open_folder(key="key", kill=COUNT, batch=2, count=COUNT):
        made, messages = [], []

        def make(rows):
            for start in range(0, len(rows), batch):
                some = rows[start : start + batch]
                if len(made) >= kill:
                    raise KeyboardInterrupt
                made.extend(some.tolist())
                # The last part may be padded, like a batch.
                some = np.resize(some, batch)
                yield {
                    "wide": np.float32(some)[:, None, None]
                    + np.arange(4, dtype=np.float32).reshape(2, 2),
                    "narrow": some[:, None] >> np.arange(8) & 1 > 0,
                }

        array_files.prepare(folder, SHAPES, key, "ten rows", messages.append)
        names = ("wide", "narrow")
        array_files.fill(folder, names, count, make, messages.append)
        return made, messages

    return folder, open_folder


def assert_whole(folder):
    wide, narrow = (np.load(folder / f"{name}.npy") for name in SHAPES)
    np.testing.assert_array_equal(
        wide.reshape(10, 4), np.add.outer(np.arange(10), np.arange(4))
    )
    np.testing.assert_array_equal(narrow @ 2 ** np.arange(8), np.arange(10))


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_intact_files_are_reused(store):
    folder, open_folder = store
    made, messages = open_folder()
    assert made == list(range(10))
    (line,) = messages
    assert line.startswith("encoding ten rows once (0.00 GB in ")
    assert_whole(folder)
    assert len(json.loads((folder / "done.json").read_text())["wide"]) == 4
    assert open_folder() == ([], [])
    # A different key empties the folder.
    assert open_folder(key="other")[0] == list(range(10))


@pytest.mark.parametrize("batch", [1, 2, 7, 20])
@pytest.mark.parametrize("kill", [0, 1, 5, 9])
def test_interrupted_fill_resumes_after_the_last_block(store, kill, batch):
    folder, open_folder = store
    with pytest.raises(KeyboardInterrupt):
        open_folder(kill=0)
    try:
        first, _ = open_folder(kill=kill, batch=batch)
    except KeyboardInterrupt:
        first = None
    made, messages = open_folder(batch=batch)
    taken = min(-(-kill // batch) * batch, COUNT)
    start = 10 if taken == 10 else taken // 3 * 3
    assert made == list(range(start, 10))
    assert (first is None) == (taken < 10)
    assert not messages
    assert_whole(folder)


@pytest.mark.parametrize(
    ("name", "row", "again"),
    [
        ("wide", 0, range(3)),
        ("narrow", 4, range(3, 6)),
        ("wide", 9, range(9, 10)),
    ],
)
def test_damaged_block_is_recomputed(store, name, row, again):
    folder, open_folder = store
    open_folder()
    path = folder / f"{name}.npy"
    size = path.stat().st_size
    row_bytes = np.load(path)[:1].nbytes
    flip(path, size - (10 - row) * row_bytes)
    with pytest.raises(AssertionError):
        assert_whole(folder)
    made, (message,) = open_folder()
    assert made == list(again)
    assert "1 of 4 blocks of " in message
    assert f"{name}.npy" in message
    assert f"computing their {len(again)} rows again" in message
    assert_whole(folder)
    assert open_folder() == ([], [])


def test_interrupted_repair_is_completed(store):
    folder, open_folder = store
    open_folder()
    for row in (1, 7):
        flip(folder / "narrow.npy", -(10 - row) * 8)
    with pytest.raises(KeyboardInterrupt):
        open_folder(kill=4)  # after the first block and a row of the second
    made, (message,) = open_folder()
    assert made == [6, 7, 8]
    assert "1 of 4 blocks" in message
    assert_whole(folder)


@pytest.mark.parametrize("harm", ["missing", "cut", "longer", "other", "empty"])
def test_file_of_another_size_is_recomputed(store, harm):
    folder, open_folder = store
    open_folder()
    path = folder / "narrow.npy"
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "other":
        np.save(path, np.zeros((10, 7), bool))
    else:
        change = {"cut": content[:-1], "longer": content + b"\0", "empty": b""}
        path.write_bytes(change[harm])
    made, messages = open_folder()
    assert made == list(range(10))
    assert messages[0] == f"{path} is missing or truncated"
    assert "4 of 4 blocks" in messages[1]
    assert_whole(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"wide": 4}', '{"wide": [1, 2]}']
)
def test_missing_checksums_recompute_everything(store, text):
    folder, open_folder = store
    open_folder()
    (folder / "done.json").write_text(text)
    made, (message,) = open_folder()
    assert made == list(range(10))
    assert "done.json is damaged" in message
    assert open_folder() == ([], [])


def test_large_files_are_announced_before_verification(store, monkeypatch):
    _, open_folder = store
    open_folder()
    monkeypatch.setattr(array_files, "_LARGE", 240)
    ticks = iter([1.0, 3.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    _, (before, after) = open_folder()
    assert before.startswith("verifying the checksums of 0.00 GB in ")
    assert after == "verified in 2.0 s, 0.00 GB/s"


def test_empty_arrays_need_no_computation(store):
    _, open_folder = store
    assert open_folder(count=0)[0] == []


def test_all_processes_compute_rows_that_any_lacks(store, monkeypatch):
    _, open_folder = store
    open_folder()

    def gather(missing):
        assert not missing.any()
        return np.array([missing, [False, False, True, False]])

    monkeypatch.setattr(array_files.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        array_files.multihost_utils, "process_allgather", gather
    )
    assert open_folder() == ([6, 7, 8], [])


def test_unwritable_folder_raises_an_error(store, monkeypatch, tmp_path):
    folder, open_folder = store
    usage = shutil.disk_usage(tmp_path)._replace(free=200)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need .* GB in .* GB free"):
        open_folder()
    folder.rmdir()
    folder.touch()
    with pytest.raises(UserError, match="cannot be written"):
        open_folder()


def test_folder_with_other_files_is_not_emptied(store):
    folder, open_folder = store
    open_folder()
    open_folder(key="other")  # contains only our files
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis.tex, which does not belong"):
        open_folder(key="third")
    assert (folder / "thesis.tex").exists()
