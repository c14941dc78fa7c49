import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.images import checking, faults
from mixer_jax.data.tables import table
from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError
from tests.broken_files import encode


def make_frame(paths):
    rows = [
        (f"s{i}", "query", path, "", "c", "", "train")
        for i, path in enumerate(paths)
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


@pytest.mark.parametrize("threads", [1, 3])
def test_check_drops_unreadable_images(tmp_path, threads):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    good = encode(Image.fromarray(noise))
    paths = [f"{i}.png" for i in range(200)]
    for path in paths:
        (tmp_path / path).write_bytes(good)
    (tmp_path / "3.png").unlink()
    (tmp_path / "150.png").write_bytes(good[:-60])
    # A document without an image, and a file that two rows share.
    frame = make_frame([*paths, "", "3.png"])
    kept, skipped = checking.check_images(frame, tmp_path, 0.02, threads)
    assert kept.index.tolist() == [i for i in range(201) if i not in (3, 150)]
    assert (skipped.count, skipped.total) == (3, 202)
    assert "row 4: " in skipped.examples[0]
    assert "3.png: the file is missing" in skipped.examples[0]
    assert "150.png: cannot be decoded" in skipped.examples[1]
    assert skipped.kinds[faults.MISSING] == 2  # samples, not files
    assert str(skipped) == (
        "3 of 202 samples skipped: unreadable images (2 missing, 1 truncated)"
    )


def test_check_passes_all_dropped_rows_to_keep(tmp_path):
    (tmp_path / "good.png").write_bytes(encode(Image.new("RGB", (4, 4))))
    (tmp_path / "empty.png").touch()
    frame = make_frame(["good.png", "empty.png", "none.png", "empty.png"])
    given = []

    def keep(listed):
        given.append(listed)
        return "list.csv"

    with pytest.raises(UserError, match=r"list\.csv lists them"):
        checking.check_images(frame, tmp_path, 0.5, keep=keep)
    kept, skipped = checking.check_images(frame, tmp_path, 0.75, keep=keep)
    assert kept["image"].tolist() == ["good.png"]
    assert skipped.listing == "list.csv"
    for listed in given:
        assert listed["row"].tolist() == [2, 3, 4]
        assert listed["sample_id"].tolist() == ["s1", "s2", "s3"]
        assert listed["kind"].tolist() == ["empty", "missing", "empty"]
        assert "none.png: the file is missing" in listed["reason"].iloc[1]
    # Nothing to list.
    checking.check_images(frame[:1], tmp_path, 0.0, keep=given.append)
    assert len(given) == 2


def test_check_error_lists_the_first_ten_failures(tmp_path):
    frame = make_frame([f"{i}.png" for i in range(12)])
    with pytest.raises(UserError) as caught:
        checking.check_images(frame, tmp_path, 0.5)
    message = str(caught.value)
    assert "12 of 12 samples" in message
    assert "9.png" in message
    assert "10.png" not in message
    assert "2 more" in message


def test_missing_file_error_suggests_a_similar_path(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(b"")
    frame = pd.DataFrame({"sample_id": ["x"], "image": ["img\\a.png"]})
    with pytest.raises(UserError, match=r"Did you mean 'img/a\.png'"):
        checking.check_images(frame, tmp_path, 0.0)


def test_processes_share_faults_in_several_messages(tmp_path, monkeypatch):
    paths = [f"{i}.png" for i in range(7)]
    Image.new("RGB", (4, 4)).save(tmp_path / "2.png")
    frame = make_frame(paths)
    monkeypatch.setattr(checking, "_MESSAGE", 2)
    want, wanted = checking.check_images(frame, tmp_path, 1.0)
    kept, skipped = checking.check_images(frame, tmp_path, 1.0, together=True)
    pd.testing.assert_frame_equal(kept, want)
    assert skipped == wanted


def test_processes_with_different_tables_end(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda name, rows: [rows, "other"])
    with pytest.raises(
        UserError, match="Process 1 reads a different sample table"
    ):
        checking.check_images(make_frame([""]), tmp_path, 1.0, together=True)
