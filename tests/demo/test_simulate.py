import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from mixer_jax.categories import click_log
from mixer_jax.demo import simulate


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(6):
        image = Image.new("RGB", (8, 8), (40 * i, 255 - 40 * i, 0))
        image.save(folder / f"{i}.png")
        for role in ("query", "document"):
            for part in ("forward", "reverse"):
                text = f"name {i}" if role == "document" else ""
                sample = f"{part}:{role}:{i}"
                rows.append((sample, role, f"{i}.png", text, f"c{i}", "", part))
    columns = [
        "sample_id",
        "role",
        "image",
        "text",
        "category_id",
        "group",
        "split",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    frame["split"] = "train/" + frame["split"]
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return path


def test_main_writes_a_log_marked_as_simulated(table, tmp_path, capsys):
    out = tmp_path / "log"
    arguments = [f"--table={table}", f"--out={out}", "--seed=3"]
    assert simulate.main(arguments) == 0
    assert "simulated" in capsys.readouterr().out
    read = click_log.read_folder(out)
    assert len(read.queries) == len(read.items) == 6
    assert read.queries["query_id"].str.startswith("forward:").all()
    assert Path(read.queries["image"][0]).is_file()
    assert read.items["text"].tolist() == [f"name {i}" for i in range(6)]
    note = json.loads((out / "simulation.json").read_text())
    assert note["simulation"] is True
    assert note["seed"] == 3
    for name in ("exposures", "clicks"):
        assert note[name] == read.clicks[name].sum() > 0
    assert "simulated" in (out / "SIMULATION.md").read_text()
    # No table read by the clustering contains the truth.
    for path in out.glob("*.csv"):
        assert "category" not in path.read_text()


def test_table_without_parts_is_used_completely(table, tmp_path):
    frame = pd.read_csv(table, keep_default_na=False)
    frame["split"] = "train"
    frame.to_csv(table, index=False)
    out = tmp_path / "log"
    assert simulate.main([f"--table={table}", f"--out={out}"]) == 0
    assert len(click_log.read_folder(out).queries) == 12


def test_main_reports_invalid_input(table, tmp_path, capsys):
    out = f"--out={tmp_path / 'log'}"
    assert simulate.main([f"--table={table}", out, "--part=sideways"]) == 2
    assert "no queries with an image" in capsys.readouterr().err
    assert simulate.main([f"--table={tmp_path}/none.csv", out]) == 2
    assert "There is no table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("sample_id", "forward:query:0", "already occurs in an earlier row"),
        ("sample_id", "", "the ID is empty"),
        ("role", "Query", "must be 'query' or 'document', not 'Query'"),
        ("category_id", "", "the category is empty"),
    ],
)
def test_invalid_rows_are_named(table, tmp_path, capsys, column, cell, problem):
    frame = pd.read_csv(table, keep_default_na=False)
    frame.loc[2, column] = cell
    frame.to_csv(table, index=False)
    out = tmp_path / "log"
    assert simulate.main([f"--table={table}", f"--out={out}"]) == 2
    message = capsys.readouterr().err
    assert f"{table}, line 4" in message
    assert problem in message
    assert not out.exists()


@pytest.mark.parametrize("option", ["--seed=-1", "--clicks=-1"])
def test_negative_numbers_are_rejected(table, tmp_path, option):
    with pytest.raises(SystemExit) as raised:
        simulate.main([f"--table={table}", f"--out={tmp_path / 'log'}", option])
    assert raised.value.code == 2


def test_log_can_be_written_through_a_link(table, tmp_path):
    (tmp_path / "disk" / "far" / "log").mkdir(parents=True)
    out = tmp_path / "log"
    out.symlink_to(tmp_path / "disk" / "far" / "log")
    assert simulate.main([f"--table={table}", f"--out={out}"]) == 0
    read = click_log.read_folder(out)
    for rows in (read.queries, read.items):
        assert all(Path(image).is_file() for image in rows["image"])


def test_real_log_is_not_overwritten(table, tmp_path, capsys):
    out = tmp_path / "shop"
    out.mkdir()
    for name in ("queries.csv", "items.parquet", "clicks.csv"):
        (out / name).write_text("real")
        assert simulate.main([f"--table={table}", f"--out={out}"]) == 2
        assert "Choose another folder with --out" in capsys.readouterr().err
        assert (out / name).read_text() == "real"
        (out / name).unlink()
