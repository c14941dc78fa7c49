"""Growing files are copied to the bucket and never lost."""

import pytest

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import LostError
from mixer_jax.training.watch.spool import Spool

NAME = "metrics.jsonl"


@pytest.fixture
def workdir(bucket):
    return paths.make(bucket) / "run"


def add(spool, text):
    with open(spool.folder / NAME, "a") as file:
        file.write(text)


def test_local_workdir_is_its_own_spool(tmp_path):
    with Spool(tmp_path, [NAME]) as spool:
        assert spool.folder == tmp_path
        add(spool, "one\n")
        assert spool.send(NAME)
    assert (tmp_path / NAME).read_text() == "one\n"


def test_changed_files_are_copied(workdir):
    with Spool(workdir, [NAME]) as spool:
        assert spool.send(NAME)  # The file does not exist yet.
        add(spool, "one\n")
        assert not (workdir / NAME).exists()
        assert spool.send(NAME)
        assert (workdir / NAME).read_text() == "one\n"
        add(spool, "two\n")
        (spool.folder / "deep").mkdir()
        (spool.folder / "deep" / "events").write_bytes(b"\0")
    assert (workdir / NAME).read_text() == "one\ntwo\n"
    assert (workdir / "deep" / "events").read_bytes() == b"\0"
    assert not spool.folder.exists()


def test_existing_files_are_appended_to(workdir):
    paths.write(workdir / NAME, "one\n")
    with Spool(workdir, [NAME]) as spool:
        add(spool, "two\n")
    assert (workdir / NAME).read_text() == "one\ntwo\n"


def test_unchanged_files_are_not_copied(workdir, cloud):
    with Spool(workdir, [NAME]) as spool:
        add(spool, "one\n")
        spool.send(NAME)
        objects = cloud.buckets[workdir.parts[2]]
        before = objects[f"run/{NAME}"].generation
        spool.send(NAME)
        assert objects[f"run/{NAME}"].generation == before


def test_files_are_copied_periodically(workdir, monkeypatch):
    monkeypatch.setattr("mixer_jax.training.watch.spool._EVERY", 0.01)
    with Spool(workdir) as spool:
        add(spool, "one\n")
        while not (workdir / NAME).exists():
            pass


def test_failed_copies_are_kept_and_reported(workdir, cloud):
    messages = []
    with Spool(workdir, say=messages.append) as spool:
        cloud.frozen.add(workdir.parts[2])
        add(spool, "one\n")
        assert not spool.send(NAME)
        assert not spool.send(NAME)
        (once,) = messages
        assert (
            f"{workdir / NAME} cannot be written at present: Forbidden" in once
        )
        cloud.frozen.remove(workdir.parts[2])
        assert spool.send(NAME)
        add(spool, "two\n")
        cloud.frozen.add(workdir.parts[2])
    assert (
        messages[-1] == f"Files that could not be copied are in {spool.folder}."
    )
    assert (spool.folder / NAME).read_text() == "one\ntwo\n"


def test_files_of_a_successor_are_not_overwritten(workdir):
    messages = []

    def lost():
        raise LostError("Another run has taken over.")

    with Spool(workdir, [NAME], messages.append, lost) as spool:
        add(spool, "old\n")
        paths.write(workdir / NAME, "new\n")
        assert not spool.send(NAME)
    assert (workdir / NAME).read_text() == "new\n"
    assert (spool.folder / NAME).read_text() == "old\n"
    assert "Another run has taken over" in messages[0]
    assert str(spool.folder) in messages[-1]
