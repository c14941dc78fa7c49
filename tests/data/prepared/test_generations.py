"""Folders are kept while in use and can be removed afterwards."""

import contextlib
import os
import subprocess
import sys

import pytest

from mixer_jax.data.prepared import generations
from mixer_jax.runtime.errors import NewerFormatError


def test_held_folder_is_not_removed(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    first, second = generations.hold(folder), generations.hold(folder)
    assert not generations.remove_unused(folder)
    first.release()
    assert not generations.remove_unused(folder)
    del second
    assert generations.remove_unused(folder)
    assert not list(tmp_path.iterdir())
    assert generations.hold(folder) is None
    assert not generations.remove_unused(folder)


_HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
print(flush=True)
sys.stdin.read()
"""


def test_killed_process_releases_its_hold(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        assert not generations.remove_unused(folder)
        process.kill()
    assert generations.remove_unused(folder)


def draft(folder, name="a"):
    return generations.draft(folder, name, lambda text: None)


@pytest.mark.parametrize("any_host", [False, True])
def test_another_host_continues_only_drafts_of_any_host(
    tmp_path, monkeypatch, any_host
):
    def make():
        return generations.draft(
            tmp_path, "a", lambda text: None, any_host=any_host
        )

    with contextlib.suppress(KeyboardInterrupt), make() as first:
        (first / "file").write_text("")
        raise KeyboardInterrupt
    monkeypatch.setattr(generations.socket, "gethostname", lambda: "other")
    with make() as second:
        assert (second / "file").exists() == any_host


def test_drafts_are_removed_on_exit_and_after_a_kill(tmp_path):
    (tmp_path / "other").mkdir()
    with draft(tmp_path) as first:
        (first / "file").write_text("")
        left = first.with_name(f"{first.name}-left")
        left.mkdir()  # as if left by a killed process
        with draft(tmp_path, "b") as second:
            assert first.is_dir()
            assert first != second
            assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_failed_draft_is_continued(tmp_path):
    def fail():
        with draft(tmp_path) as folder:
            (folder / "file").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with draft(tmp_path) as second:
        assert (second / "file").is_file()
        # A draft is identified by its name.
        with draft(tmp_path, "b") as other:
            assert not list(other.iterdir())
    assert not list(tmp_path.iterdir())


def test_drafts_of_other_hosts_are_kept_for_a_day(tmp_path):
    fresh, old = tmp_path / ".partial-fresh", tmp_path / ".partial-old"
    for folder in (fresh, old):
        folder.mkdir()
    os.utime(old, (1, 1))
    with draft(tmp_path):
        assert fresh.exists()
        assert not old.exists()


def test_nothing_is_removed_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(generations.fcntl, "flock", refuse)
    assert generations.hold(folder) is not None
    assert not generations.remove_unused(folder)
    with draft(tmp_path) as folder_of_draft:
        assert folder_of_draft.is_dir()
    assert folder.is_dir()


def test_others_are_removed_unless_they_are_in_use_or_newer(tmp_path):
    names = [f"{letter * 16}-{'0' * 8}" for letter in "abcde"]
    own, used, newer, damaged, unused = (tmp_path / name for name in names)
    for folder in (own, used, newer, damaged, unused):
        folder.mkdir()
        generations.write_record(folder, rows=5)
    (tmp_path / "unrelated").mkdir()
    (newer / generations.RECORD).write_text('{"format": 6}')
    (damaged / generations.RECORD).unlink()
    assert generations.read_record(own) == {"format": 5, "rows": 5}
    assert generations.read_record(damaged) is None
    (damaged / generations.RECORD).write_text('{"format": 1}')
    assert generations.read_record(damaged) is None
    with pytest.raises(NewerFormatError, match=r"has format 6.*another folder"):
        generations.read_record(newer)
    hold = generations.hold(used)
    generations.remove_others(own)
    kept = {own, used, newer, tmp_path / "unrelated"}
    assert set(tmp_path.iterdir()) == kept
    hold.release()
    generations.remove_others(own)
    assert set(tmp_path.iterdir()) == kept - {used}
