"""Files that a rename cannot replace are overwritten or rejected early."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

import pytest

from mixer_jax.runtime import files, results
from mixer_jax.runtime.errors import UserError


@contextlib.contextmanager
def mounted(source, target, *options):
    """Mounts a file over another for the duration of a block."""
    target.touch()
    commands = [["mount", "--bind", source, target]]
    if options:
        commands.append(
            ["mount", "-o", ",".join(["remount", *options]), target]
        )
    try:
        for command in commands:
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip("This user cannot mount a file.")
        yield target
    finally:
        subprocess.run(["umount", target], capture_output=True)


def test_full_disk_leaves_a_mounted_file_unchanged(disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = disk / "source"
    source.write_text("old" * 1000)
    with mounted(source, tmp_path / "inside") as inside:
        with pytest.raises(UserError, match=r"No space .* saved as"):
            results.deliver(
                inside, lambda draft: draft.write_bytes(bytes(200_000)), "It"
            )
        assert inside.read_text() == "old" * 1000
        for text in ("longer" * 1000, "new", ""):
            files.write_text(inside, text)
            assert source.read_text() == text


def test_file_mounted_read_only_is_rejected(tmp_path):
    (tmp_path / "source").write_text("old")
    with mounted(tmp_path / "source", tmp_path / "in", "bind", "ro") as inside:
        for check in (
            lambda: files.check(inside, "It"),
            lambda: files.check_folder(tmp_path, "It", ["in"]),
        ):
            with pytest.raises(UserError, match=r"in: Read-only file system"):
                check()


@pytest.mark.parametrize("flag", ["i", "a"])
def test_protected_file_is_rejected(flag, tmp_path):
    path = tmp_path / "file"
    path.touch()
    if subprocess.run(["chattr", f"+{flag}", path]).returncode:
        pytest.skip("This file system has no such flag.")
    try:
        with pytest.raises(UserError, match="Operation not permitted; choose"):
            files.check(path, "It")
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)
    files.check(path, "It")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
def test_file_of_another_user_in_a_sticky_folder_is_rejected():
    # Other users have no access to pytest's temporary folders.
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o1777)
        for name in ("mine", "theirs"):
            (folder / name).touch()
            (folder / name).chmod(0o666)
        os.chown(folder / "mine", 65534, 65534)
        os.seteuid(65534)
        try:
            files.check(folder / "mine", "It")
            files.check(folder / "new", "It")
            with pytest.raises(UserError, match="belongs to another user"):
                files.check(folder / "theirs", "It")
        finally:
            os.seteuid(0)


def test_file_without_write_permission_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o400)
    files.check(path, "It")
    files.write_text(path, "new")
    assert path.read_text() == "new"
