"""Every command with missing, read-only, full and otherwise unusable outputs.

An unwritable destination is rejected before the work starts, with a message and
exit code 2. If the disk fills up later, no result or existing file is lost, and
no draft is left behind.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest

from mixer_jax.categories import aggregate
from mixer_jax.data.images import checking
from mixer_jax.demo import emoji, icons
from mixer_jax.demo.furniture import __main__ as furniture
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import loop
from mixer_jax.training.checkpoint import checkpoints, workdir
from tests import every_command
from tests.every_command import COMMANDS

WRITERS = [name for name, command in COMMANDS.items() if command.name]


@pytest.fixture
def inputs(tiny_encoders, color_run, colors, shop, tiny_table, tmp_path):
    every_command.draw_album(tmp_path / "album")
    return every_command.Inputs(
        color_run,
        colors[0] / "colors.csv",
        shop,
        tmp_path / "album",
        tiny_table,
    )


@pytest.fixture
def disk(disk):
    """The mounted file system, resized to 1 MB to fit a report."""
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    return disk


def forbid_work(patch):
    """Makes a test fail as soon as a command starts its work."""

    def work(*_, **__):
        raise AssertionError("The work has started.")

    patch.setattr(checkpoints, "load_model", work)
    patch.setattr(checking, "check_images", work)


@pytest.mark.parametrize("name", WRITERS)
def test_read_only_destination_is_rejected_before_the_work(
    name, inputs, disk, capsys, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    command = COMMANDS[name]
    out = disk / "new" / command.name
    with monkeypatch.context() as patch:
        forbid_work(patch)
        assert command.main(command.arguments(inputs, out)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(out) in error
    assert "Read-only" in error


@pytest.mark.parametrize("name", ["categorize", "sweep"])
def test_read_only_categories_are_rejected_before_the_work(
    name, inputs, disk, capsys, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    shop = shutil.copytree(inputs.shop, disk / "shop")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    command = COMMANDS[name]
    with monkeypatch.context() as patch:
        forbid_work(patch)
        arguments = command.arguments(inputs._replace(shop=shop), disk)
        assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert str(shop) in error
    assert "Read-only" in error


def test_read_only_workdir_is_rejected_before_the_work(
    inputs, disk, monkeypatch
):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    config = workdir.read_config(inputs.run / "stage1")
    config.batch_size = 16
    forbid_work(monkeypatch)
    with pytest.raises(UserError, match=r"disk/run.*Read-only") as refused:
        loop.train(config, disk / "run")
    assert "--workdir" in str(refused.value)


@pytest.mark.parametrize("name", WRITERS)
def test_destination_below_a_file_is_rejected_before_the_work(
    name, inputs, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    command = COMMANDS[name]
    out = tmp_path / "file" / command.name
    with monkeypatch.context() as patch:
        forbid_work(patch)
        assert command.main(command.arguments(inputs, out)) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITERS)
def test_missing_folders_are_created_and_links_followed(
    name, inputs, disk, tmp_path
):
    command = COMMANDS[name]
    # The output is first missing, then a dangling link to another disk, and
    # finally a link to an existing target.
    (tmp_path / "link").mkdir()
    there = disk / command.name
    link = tmp_path / "link" / command.name
    link.symlink_to(there)
    # Images of a sample table must be in its own folder.
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
def test_full_disk_keeps_existing_files(
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
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "No space left" in error
    (disk / "filler").unlink()
    assert dict(every_command.contents(disk)) == before


@pytest.mark.parametrize("name", ["embed", "evaluate", "report"])
def test_result_is_rescued_if_the_disk_fills_up(
    name, inputs, disk, tmp_path, capsys, monkeypatch
):
    """The destination passes the check before the disk fills up."""
    command = COMMANDS[name]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def fill(*_, **__):
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(512))

    # embed checks the free space between these steps, so fill the disk later.
    module, step = checkpoints, "load_model"
    if name == "embed":
        module, step = checking, "check_images"
    real = getattr(module, step)

    def fill_before(*arguments, **options):
        fill()
        return real(*arguments, **options)

    monkeypatch.setattr(module, step, fill_before)
    out = disk / command.name
    assert command.main(command.arguments(inputs, out)) == 2
    error = capsys.readouterr().err
    (kept,) = (tmp_path / "here").glob("rescued-*/*")
    assert kept.name == out.name
    assert str(kept) in error
    assert [n for n, _ in every_command.contents(disk)] == ["filler"]
    # The rescued output equals that of a successful run.
    (disk / "filler").unlink()
    monkeypatch.setattr(module, step, real)
    assert command.main(command.arguments(inputs, out)) == 0
    if kept.is_dir():
        names = [n for n, _ in every_command.contents(kept)]
        assert names == [n for n, _ in every_command.contents(out)]
        shutil.rmtree(kept)
    elif name in ("embed", "report"):
        assert len(kept.read_bytes()) == len(out.read_bytes())


@pytest.mark.parametrize("name", [*WRITERS, "categorize", "sweep"])
def test_folder_in_place_of_a_file_is_rejected_before_the_work(
    name, inputs, tmp_path, capsys, monkeypatch
):
    command = COMMANDS[name]
    (tmp_path / "out").mkdir()
    out = place = tmp_path / "out" / (command.name or "none")
    if name == "data.read":
        out = place = tmp_path / command.name
    if not command.name:
        place = shutil.copytree(inputs.shop, tmp_path / "shop")
        inputs = inputs._replace(shop=place)
    there = {*place.rglob("*")}
    arguments = command.arguments(inputs, out)
    assert command.main(arguments) == 0
    made = {*place.rglob("*")} - there if place.is_dir() else {place}
    # Stored features are opened only if a run needs them.
    for file in (path for path in made if "features" not in path.parts):
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        capsys.readouterr()
        with monkeypatch.context() as patch:
            forbid_work(patch)
            assert command.main(arguments) == 2, file
        error = capsys.readouterr().err
        assert str(place) in error
        assert "draft" not in error
        file.rmdir()
        file.write_bytes(content)


BUILDERS = {
    "emoji": (emoji.main, [], ("large.csv", "ATTRIBUTION.md")),
    "icons": (icons.main, [], ("icons.csv", "CARD.md")),
    "furniture": (furniture.main, [], ("fold4.csv", "contact_sheet.png")),
    "aggregate": (
        aggregate.main,
        ["--events=none.csv"],
        ("clicks.parquet", "clicks_later.parquet", "aggregate.json"),
    ),
}


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Returns a function that runs a builder and expects an early failure."""

    def work(*_, **__):
        raise AssertionError("The work has started.")

    monkeypatch.setattr(emoji, "build_table", work)
    monkeypatch.setattr(icons, "build_table", work)
    monkeypatch.setattr(furniture.build, "build_tables", work)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: name if name == "apache_beam" else find(name),
    )
    gathering = types.ModuleType("gathering")
    gathering.aggregate = work
    name = "mixer_jax.categories.clicks.gathering"
    monkeypatch.setitem(sys.modules, name, gathering)

    def build(name, out):
        main, arguments, _ = BUILDERS[name]
        assert main([*arguments, f"--out={out}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return build


@pytest.mark.parametrize("name", BUILDERS)
def test_builders_reject_an_invalid_destination_before_the_work(
    name, build, disk, tmp_path
):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(disk / "new")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for out, reason in (
        (tmp_path / "file", "not a folder"),
        (tmp_path / "file" / "out", "ot a "),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "dangling", "Read-only"),
        (disk / "new", "Read-only"),
        (tmp_path / ("long" * 100), "File name too long"),
    ):
        error = build(name, out)
        assert str(out) in error
        assert reason in error


@pytest.mark.parametrize("name", BUILDERS)
def test_builders_reject_folders_in_place_of_their_files(name, build, tmp_path):
    for file in BUILDERS[name][2]:
        (tmp_path / "out" / file).mkdir(parents=True)
        assert f"{file}: it is a folder" in build(name, tmp_path / "out")
        (tmp_path / "out" / file).rmdir()
    if name != "aggregate":
        (tmp_path / "out" / "images").touch()
        error = build(name, tmp_path / "out")
        assert f"{tmp_path}/out/images" in error
        assert "ot a " in error  # a folder, or a directory


def test_compile_for_tpu_rejects_an_invalid_destination(disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    root = pathlib.Path(__file__).parents[1]
    for out, reason in (
        (disk / "rows.json", "Read-only"),
        (tmp_path, "it is a folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mixer_jax.compile_for_tpu"]
            + [f"--config={root}/configs/stage2.py", f"--json={out}"]
            + ["--topology=v5e:2x2"],
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: The rows cannot be written to ")
        assert str(out) in done.stderr
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
