"""Commands reject a folder or file in use by another command."""

import fcntl
import importlib.util
import os
import shutil
import sys
import types

import pytest

from mixer_jax.runtime.ownership import folder_lock, replacing
from tests import every_command

COMMANDS = {
    "index": ["build", "--workdir=run", "--table=table.csv", "--out={}"],
    "export": ["--workdir=run", "--out={}"],
    "export huggingface": ["--workdir=run", "--to=huggingface", "--out={}"],
    "categorize": ["--log=log", "--out={}"],
    "categories.aggregate": ["--events=events.csv", "--out={}"],
    "sweep": ["--categories={}"],
    "demo.simulate": ["--table=table.csv", "--out={}"],
    "demo.emoji": ["--out={}"],
    "demo.emoji_vendors": ["--out={}"],
    "demo.icons": ["--out={}"],
    "demo.furniture.__main__": ["--out={}"],
}


@pytest.fixture(autouse=True)
def beam(monkeypatch):
    """Lets aggregate start without Beam's environment."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: name if name == "apache_beam" else find(name),
    )
    name = "mixer_jax.categories.clicks.gathering"
    monkeypatch.setitem(sys.modules, name, types.ModuleType("gathering"))


@pytest.mark.parametrize("name", COMMANDS)
def test_folder_in_use_is_rejected(name, tmp_path, capsys):
    module = importlib.import_module(f"mixer_jax.{name.split()[0]}")
    arguments = [given.format(tmp_path / "out") for given in COMMANDS[name]]
    with folder_lock.hold(tmp_path / "out", "--out"):
        before = sorted((tmp_path / "out").iterdir())
        assert module.main(arguments) == 2
        assert sorted((tmp_path / "out").iterdir()) == before
    error = capsys.readouterr().err
    flag = arguments[-1].partition("=")[0]
    assert f"Another run is using {tmp_path / 'out'}: process" in error
    assert f"with {flag}, or wait" in error


WRITERS = {
    name: command
    for name, command in every_command.COMMANDS.items()
    if "." in command.name and name != "evaluate"  # evaluate adds rows
}


@pytest.mark.parametrize("name", WRITERS)
def test_file_in_use_is_rejected(
    name, color_run, colors, shop, tmp_path, capsys
):
    every_command.draw_album(tmp_path / "album")
    inputs = every_command.Inputs(
        color_run, colors[0] / "colors.csv", shop, tmp_path / "album"
    )
    out = tmp_path / WRITERS[name].name
    arguments = WRITERS[name].arguments(inputs, out)
    with folder_lock.hold_file(out, "--out"):
        assert WRITERS[name].main(arguments) == 2
        assert not out.exists()
    error = capsys.readouterr().err
    assert f"Another run is using {out}: process" in error
    assert "Choose another file with --out, or wait" in error


def is_locked(folder):
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("simulate", {"queries.csv", "items.csv", "clicks.csv"}),
        ("categorize", {"found.csv", "unassigned.csv", "categories.json"}),
    ],
)
def test_related_files_are_replaced_under_a_lock(
    name, written, shop, tmp_path, monkeypatch
):
    shop = shutil.copytree(shop, tmp_path / "shop")
    inputs = every_command.Inputs(None, None, shop, None)
    locked, replace = {}, replacing.replace

    def note(draft, target):
        locked[target.name] = is_locked(target.parent)
        replace(draft, target)

    monkeypatch.setattr(replacing, "replace", note)
    command = every_command.COMMANDS[name]
    assert command.main(command.arguments(inputs, tmp_path / "out")) == 0
    assert written <= locked.keys()
    assert all(locked[name] for name in written)
