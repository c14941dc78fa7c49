"""The command prepares what training then finds."""

import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data import prepare
from mixer_jax.data.prepared import build
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
def test_prepared_samples_are_found(path, tmp_path, capsys, workers):
    out = tmp_path / "out"
    options = [f"--table={path}", f"--out={out}", f"--workers={workers}"]
    (tmp_path / "0.png").write_bytes(b"")
    assert prepare.main([*options, "--shards=2"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "3samplesarepreparedin" in printed
    assert "skipped.csvliststhem" in printed
    frame = table.select(table.read_table(path), "train")
    made = build.find(frame, tmp_path, out)
    assert [count for _, count in made.parts] == [1, 2]
    assert str(made.folder) in printed
    # The same command finds them, too.
    before = made.folder.stat()
    assert prepare.main(options) == 0
    assert made.folder.stat() == before


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
