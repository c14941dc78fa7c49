import time

import pytest

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import sharing


def pretend(monkeypatch, place, mark=None):
    """Simulates two processes; `mark` replaces the mark of process 0."""

    def gather(name, value):
        first = mark if mark and name == "mark" else value
        return [first, value]

    monkeypatch.setattr(sharing.processes, "place", lambda: (place, 2))
    monkeypatch.setattr(sharing.processes, "gather", gather)


def test_marks_of_killed_runs_are_removed(tmp_path, bucket, monkeypatch):
    pretend(monkeypatch, 0)
    for folder in (tmp_path, paths.make(f"{bucket}/run")):
        paths.write(folder / ".shared-1", "")
        paths.write(folder / "other", "")
        sharing.check(folder, "The folder", "it must be shared.")
        assert {path.name for path in folder.iterdir()} == {"other"}


def test_marks_of_other_runs_are_kept(tmp_path, monkeypatch):
    pretend(monkeypatch, 0)
    fresh, stale = int(time.time()) - 60, int(time.time()) - 7200
    for made in (fresh, stale):
        (tmp_path / f".shared-{made}-0123").touch()
    sharing.check(tmp_path, "The folder", "it must be shared.")
    (left,) = tmp_path.iterdir()
    assert left.name == f".shared-{fresh}-0123"


def test_another_folder_is_noticed(tmp_path, monkeypatch):
    pretend(monkeypatch, 1, mark=".shared-2")
    with pytest.raises(UserError, match="but it must be shared") as caught:
        sharing.check(tmp_path, "The folder", "it must be shared.")
    assert str(caught.value).startswith(f"The folder {tmp_path} of process 0")


def test_one_process_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(paths, "write")
    sharing.check(tmp_path / "missing", "The folder", "it must be shared.")
