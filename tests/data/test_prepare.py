"""Training finds the data prepared by the command."""

import os

import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data import prepare
from mixer_jax.data.prepared import build, shards
from mixer_jax.data.tables import table


@pytest.fixture
def path(tmp_path):
    rows = []
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(
            tmp_path / f"{number}.png"
        )
        role = ("query", "document")[number % 2]
        split = "test" if number > 3 else "train"
        rows.append((f"s{number}", role, f"{number}.png", "", "c", "", split))
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    table.write_table(frame, tmp_path / "table.csv")
    return tmp_path / "table.csv"


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_samples_are_found(
    path, tmp_path, capsys, monkeypatch, workers
):
    out = tmp_path / "out"
    options = [f"--table={path}", f"--out={out}", f"--workers={workers}"]
    options.append("--max-skipped=0.25")
    (tmp_path / "0.png").write_bytes(b"")
    assert prepare.main([*options, "--shards=2"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "3samplesarepreparedin" in printed
    assert "1of4samplesskipped:unreadableimages(1empty)" in printed
    assert "skipped.csvliststhem" in printed
    frame = table.select(table.read_table(path), "train")
    made = build.find(frame, tmp_path, out)
    assert [count for _, count in made.parts] == [1, 2]
    assert str(made.folder) in printed
    # Running the same command again finds the prepared data.
    monkeypatch.setattr(shards, "write", None)
    assert prepare.main(options) == 0


def test_earlier_data_is_kept_if_too_many_images_are_unreadable(
    path, tmp_path, capsys
):
    """This happens, for example, if a file system is not mounted."""
    frame = table.select(table.read_table(path), "train")
    assert prepare.main([f"--table={path}"]) == 0
    made = build.find(frame, tmp_path)
    images = [tmp_path / f"{number}.png" for number in range(4)]
    contents = [image.read_bytes() for image in images]
    times = [image.stat().st_mtime_ns for image in images]
    for image in images:
        image.unlink()
    del made
    assert prepare.main([f"--table={path}"]) == 2
    assert "--max-skipped allows 0.01" in capsys.readouterr().err
    for image, content, time in zip(images, contents, times, strict=True):
        image.write_bytes(content)
        os.utime(image, ns=(time, time))
    assert not build.find(frame, tmp_path).skipped


def test_wrong_input_ends_with_a_sentence(path, tmp_path, capsys):
    options = [f"--table={path}", f"--out={tmp_path / 'out'}"]
    assert prepare.main([*options, "--split=tset"]) == 2
    assert "its splits are 'test', 'train'" in capsys.readouterr().err
    assert prepare.main([f"--table={tmp_path / 'none.csv'}"]) == 2
    assert "none.csv" in capsys.readouterr().err
    assert prepare.main([f"--table={path}", f"--out={path}"]) == 2
    assert "data.prepared" in capsys.readouterr().err
    for option in ("--shards=0", "--workers=-1", "--max-pixels=0"):
        with pytest.raises(SystemExit, match="2"):
            prepare.main([*options, option])
    assert not (tmp_path / "out").exists()
