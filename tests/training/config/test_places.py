"""Paths are resolved after a run and its data have moved."""

import json
import os
import shutil

import pytest

from mixer_jax import embed, evaluate, export, index, report
from mixer_jax.models import factory
from mixer_jax.training import loop
from mixer_jax.training.checkpoint import workdir
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import places


@pytest.fixture
def moved(color_run, colors, tmp_path, monkeypatch):
    """A run with relative paths, moved together with its data."""
    root, _ = colors
    monkeypatch.chdir(tmp_path)
    for stage in ("stage1", "stage2"):
        folder = color_run / stage
        config = workdir.read_config(folder)
        config.data.table = "data/colors.csv"
        workdir.prepare(folder, config, ["gray", "white"])
    (tmp_path / "new").mkdir()
    shutil.move(root, tmp_path / "new" / "data")
    shutil.move(color_run, tmp_path / "new" / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "new"


def commands(moved, out):
    run, table = moved / "run", moved / "data" / "colors.csv"
    stage = f"--workdir={run / 'stage2'}"
    return {
        "evaluate": lambda: evaluate.main([f"--workdir={run}"]),
        "report": lambda: report.main([f"--workdir={run}"]),
        "embed": lambda: embed.main(
            [stage, f"--table={table}", f"--out={out}/e.npz"]
        ),
        "export": lambda: export.main([stage, f"--out={out}/proxies"]),
        "index": lambda: index.main(
            ["build", stage, f"--table={table}", f"--out={out}/index"]
        ),
    }


@pytest.mark.slow
def test_all_commands_work_after_a_move(moved, tmp_path, capsys):
    for name, command in commands(moved, tmp_path).items():
        assert command() == 0, name
    captured = capsys.readouterr()
    assert "There is no table" not in captured.out + captured.err
    html = (moved / "run" / "report" / "index.html").read_text()
    assert "Correct at rank 1" in html
    assert "gray paint" in html


@pytest.mark.slow
def test_missing_data_error_names_the_option(moved, tmp_path, capsys):
    shutil.move(moved / "data", tmp_path / "away")
    table = f"{tmp_path / 'away'}/colors.csv"
    run = moved / "run"
    assert evaluate.main([f"--workdir={run}"]) == 2
    output = capsys.readouterr().err
    assert "There is no sample table" in output
    assert "--table=PATH" in output
    given = [f"--workdir={run}", f"--table={table}"]
    assert evaluate.main(given) == 0
    assert evaluate.main([*given, "--baselines"]) == 2
    assert "--training-table=PATH" in capsys.readouterr().err
    assert report.main([f"--workdir={run}"]) == 0
    output = capsys.readouterr().out
    assert "--table=PATH" in output
    assert "--training-table=PATH" in output
    given = [
        f"--workdir={run}",
        f"--table={table}",
        f"--training-table={table}",
    ]
    assert report.main(given) == 0
    assert "There is no table" not in capsys.readouterr().out
    assert "gray paint" in (run / "report" / "index.html").read_text()
    assert report.main([f"--workdir={run}", "--table=no.csv"]) == 2


def test_same_file_name_in_the_current_folder_is_ignored(moved):
    """The recorded path is used, not a file in the current folder."""
    (moved.parent / "elsewhere" / "data").mkdir()
    (moved.parent / "elsewhere" / "data" / "colors.csv").write_text("other")
    config = workdir.read_config(moved / "run" / "stage1")
    assert config.data.table == str(moved / "data" / "colors.csv")


def test_workdir_may_move_without_its_data(color_run, colors, tmp_path):
    shutil.move(color_run, tmp_path / "deep" / "er")
    config = workdir.read_config(tmp_path / "deep" / "er" / "stage1")
    assert config.data.table == str(colors[0] / "colors.csv")


def test_workdir_may_be_a_symbolic_link(moved, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "link").symlink_to(moved / "run" / "stage1")
    config = workdir.read_config(tmp_path / "a" / "b" / "link")
    assert os.path.samefile(config.data.table, moved / "data" / "colors.csv")


def test_tokenizer_moves_with_the_workdir(tmp_path, monkeypatch):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text('{"größe": 1}')
    monkeypatch.chdir(tmp_path)
    config = config_lib.defaults()
    config.data.tokenizer = "words"
    workdir.prepare("run", config, ["a"])
    assert workdir.read_config("run").data.tokenizer == "words"
    shutil.rmtree("words")
    shutil.move("run", "moved")
    folder = workdir.read_config("moved").data.tokenizer
    assert folder == os.path.join("moved", "tokenizer")
    with open(f"{folder}/tokenizer.json", encoding="utf-8") as file:
        assert json.load(file) == {"größe": 1}


def test_repeated_command_finds_moved_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "latest_step", lambda folder: 3)
    for name in ("old/data", "old/encoder"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "old/data/t.csv").write_text("")
    monkeypatch.chdir(tmp_path / "old")
    config = config_lib.defaults()
    config.data.table = "data/t.csv"
    config.model.image.pretrained = "encoder"
    config.model.image.name = "described"
    workdir.prepare("run", config, ["a"])
    shutil.move(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "encoder").rmdir()
    monkeypatch.chdir(tmp_path)
    given = config.copy_and_resolve_references()
    given.model.image.name = "resnet50"
    workdir.restore_paths("new/run", given)
    assert given.data.table == str(tmp_path / "new/data/t.csv")
    # The weights are in the checkpoint and the architecture in the config.
    assert given.model.image.name == "described"
    factory.resolve(given)
    # Other missing paths are left unchanged.
    given.data.table = "other/t.csv"
    workdir.restore_paths("new/run", given)
    assert given.data.table == "other/t.csv"


def test_bucket_paths_are_not_recorded():
    config = config_lib.defaults()
    config.init_from = "gs://bucket/run"
    assert places.record("run", config, {}) == {}
    assert places.is_same("run", {"given": "gs://b/r"}, "gs://b/r/")
    assert not places.is_same("run", {"given": "gs://b/r"}, "gs://b/s")


def test_repeated_command_works_after_several_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old" / "data").mkdir(parents=True)
    (tmp_path / "old" / "data" / "table.csv").touch()
    names = ["old/data/table.csv", str(tmp_path / "old" / "data" / "table.csv")]
    config = config_lib.defaults()
    config.data.table = names[0]
    recorded = places.record("old/run", config, {})
    for before, after in (("old", "new"), ("new", "newest")):
        (tmp_path / before).rename(tmp_path / after)
        for name in names * 2:
            given = config_lib.defaults()
            given.data.table = name
            places.restore(f"{after}/run", given, recorded)
            assert given.data.table == str(
                tmp_path / after / "data" / "table.csv"
            )
            recorded = places.record(f"{after}/run", given, recorded)
    other = config_lib.defaults()
    other.data.table = "other/table.csv"
    places.restore("newest/run", other, recorded)
    assert other.data.table == "other/table.csv"


def test_finished_run_records_the_moved_table(
    color_run, colors, tmp_path, monkeypatch, capsys
):
    root, _ = colors
    shutil.move(root, tmp_path / "new")
    folder = color_run / "stage2"
    config = workdir.read_config(folder)
    config.steps = 4
    saved = workdir.read_saved(folder)
    saved.steps = 4
    (folder / workdir.CONFIG).write_text(config_lib.to_json(saved))
    monkeypatch.chdir(tmp_path)
    config.data.table = "new/colors.csv"
    loop.train(config, folder)
    assert "already finished" in capsys.readouterr().out
    monkeypatch.chdir(color_run)
    table = workdir.read_config(folder).data.table
    assert os.path.samefile(table, tmp_path / "new" / "colors.csv")
    assert evaluate.main([f"--workdir={folder}"]) == 0
    # The command used before the move still works.
    config.data.table = str(root / "colors.csv")
    workdir.restore_paths(folder, config)
    assert os.path.samefile(config.data.table, table)


def test_missing_path_keeps_its_recorded_location(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("encoder")
    config = config_lib.defaults()
    config.model.image.pretrained = "encoder"
    recorded = places.record("run", config, {})
    os.rmdir("encoder")
    places.restore("run", config, recorded)
    recorded = places.record("run", config, recorded)
    os.mkdir("encoder")
    found = config_lib.defaults()
    found.model.image.pretrained = config.model.image.pretrained
    places.resolve("run", found, recorded)
    assert os.path.isdir(found.model.image.pretrained)
    assert recorded["model.image.pretrained"]["relative"] == "../encoder"


def test_workdir_is_readable_after_repeated_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "latest_step", lambda folder: 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "table.csv").touch()
    config = config_lib.defaults()
    for move in range(3):
        config.data.table = f"{move}/table.csv"
        workdir.prepare("run", config, ["a"])
        assert workdir.read_config("run").data.table == config.data.table
        os.rename(str(move), str(move + 1))
