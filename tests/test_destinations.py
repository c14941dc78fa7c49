"""Every command, whatever the place is that it shall write to.

What cannot be written is refused before the work, with a sentence and code 2.
A disk that fills up meanwhile loses nothing that was computed, nor what was
there before, and no draft is left.
"""

import contextlib
import shutil
import subprocess

import pytest

from mixer_jax.data import images
from mixer_jax.errors import UserError
from mixer_jax.training import checkpoints, loop, workdir
from tests import every_command
from tests.every_command import COMMANDS

WRITERS = [name for name, command in COMMANDS.items() if command.name]


@pytest.fixture
def inputs(colour_run, colours, shop, tmp_path):
    every_command.draw_album(tmp_path / "album")
    return every_command.Inputs(
        colour_run, colours[0] / "colours.csv", shop, tmp_path / "album"
    )


@pytest.fixture
def disk(disk):
    """The small file system, with room for a report: 1 MB."""
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    return disk


def forbid(patch):
    """Makes a test fail as soon as a command begins its work."""

    def work(*_, **__):
        raise AssertionError("The work has begun.")

    patch.setattr(checkpoints, "load_model", work)
    patch.setattr(images, "check_images", work)


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_place_is_refused_before_the_work(
    name, inputs, disk, capsys, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    command = COMMANDS[name]
    out = disk / "new" / command.name
    with monkeypatch.context() as patch:
        forbid(patch)
        assert command.main(command.arguments(inputs, out)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(out) in said
    assert "Read-only" in said


@pytest.mark.parametrize("name", ["categorize", "sweep"])
def test_a_read_only_folder_of_categories_is_refused_before_the_work(
    name, inputs, disk, capsys, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    shop = shutil.copytree(inputs.shop, disk / "shop")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    command = COMMANDS[name]
    with monkeypatch.context() as patch:
        forbid(patch)
        arguments = command.arguments(inputs._replace(shop=shop), disk)
        assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert str(shop) in said
    assert "Read-only" in said


def test_a_read_only_workdir_is_refused_before_the_work(
    inputs, disk, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    config = workdir.read_config(inputs.run / "stage1")
    config.batch_size = 16
    forbid(monkeypatch)
    with pytest.raises(UserError, match=r"disk/run.*Read-only") as refused:
        loop.train(config, disk / "run")
    assert "--workdir" in str(refused.value)


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_below_a_file_is_refused_before_the_work(
    name, inputs, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    command = COMMANDS[name]
    out = tmp_path / "file" / command.name
    with monkeypatch.context() as patch:
        forbid(patch)
        assert command.main(command.arguments(inputs, out)) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITERS)
def test_missing_folders_links_and_mount_points_are_written_to(
    name, inputs, disk, tmp_path
):
    command = COMMANDS[name]
    # The place is missing; then a link leads to another disk, where it is
    # missing too; then it is there.
    (tmp_path / "link").mkdir()
    there = disk / command.name
    link = tmp_path / "link" / command.name
    link.symlink_to(there)
    # A sample table names pictures in its own folder alone.
    inputs = inputs._replace(album=tmp_path / "album")
    for out in (tmp_path / "new" / command.name, link, link):
        if name == "data.read":
            out = tmp_path / out.name
            out.unlink(missing_ok=True)
            out.symlink_to(disk / out.name)
        assert command.main(command.arguments(inputs, out)) == 0, name
    assert out.is_symlink()
    assert not [n for n, _ in every_command.contents(disk) if "/." in f"/{n}"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_loses_nothing(
    name, inputs, disk, tmp_path, capsys, monkeypatch
):
    command = COMMANDS[name]
    out = disk / command.name
    if name == "data.read":
        (tmp_path / out.name).symlink_to(out)
        out = tmp_path / out.name
    assert command.main(command.arguments(inputs, out)) == 0
    before = dict(every_command.contents(disk))
    with contextlib.suppress(OSError), open(disk / "filler", "wb") as filler:
        while True:
            filler.write(bytes(512))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    capsys.readouterr()
    assert command.main(command.arguments(inputs, out)) == 2, name
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "No space left" in said
    (disk / "filler").unlink()
    assert dict(every_command.contents(disk)) == before


@pytest.mark.parametrize("name", ["embed", "evaluate", "index", "report"])
def test_what_was_computed_is_kept_elsewhere(
    name, inputs, disk, tmp_path, capsys, monkeypatch
):
    """The place could be written to when it was tried."""
    command = COMMANDS[name]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def fill(*_, **__):
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(512))

    real = checkpoints.load_model

    def load_model(*arguments, **options):
        fill()
        return real(*arguments, **options)

    monkeypatch.setattr(checkpoints, "load_model", load_model)
    out = disk / command.name
    assert command.main(command.arguments(inputs, out)) == 2
    said = capsys.readouterr().err
    (kept,) = (tmp_path / "here").glob("rescued-*/*")
    assert kept.name == out.name
    assert str(kept) in said
    assert [n for n, _ in every_command.contents(disk)] == ["filler"]
    # The rescued output equals the one of an undisturbed run.
    (disk / "filler").unlink()
    monkeypatch.setattr(checkpoints, "load_model", real)
    assert command.main(command.arguments(inputs, out)) == 0
    if kept.is_dir():
        names = [n for n, _ in every_command.contents(kept)]
        assert names == [n for n, _ in every_command.contents(out)]
        shutil.rmtree(kept)
    elif name in ("embed", "report"):
        assert len(kept.read_bytes()) == len(out.read_bytes())
