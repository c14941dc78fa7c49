import os
import pathlib
import tempfile

import pytest

from mixer_jax.runtime import paths
from mixer_jax.runtime.ownership import (
    bucket_store,
    owner_record,
    owner_store,
)


@pytest.fixture(params=["folder", "bucket"])
def make_store(request, tmp_path):
    """Returns a function that creates stores for the same folder."""
    if request.param == "folder":
        return lambda: owner_store.Folder(tmp_path / "new" / "run")
    folder = paths.make(f"{request.getfixturevalue('bucket')}/run")
    return lambda: bucket_store.Bucket(folder)


def test_written_record_is_read_back(make_store):
    store, record = make_store(), owner_record.make()
    store.lock()
    assert store.read().record is None
    assert store.write(record, store.read().version)
    assert store.read().record == record
    store.close(record)


def test_close_removes_the_record(make_store):
    store, record = make_store(), owner_record.make()
    store.lock()
    store.write(record, store.read().version)
    store.close(record)
    assert make_store().read().record is None


def test_close_keeps_the_record_of_another_owner(make_store):
    store, other, record = make_store(), make_store(), owner_record.make()
    store.lock()
    assert store.write(record, store.read().version)
    other.close(owner_record.make())
    assert make_store().read().record == record
    store.close(record)


def test_pipe_or_huge_file_is_an_invalid_record(tmp_path):
    path = tmp_path / owner_store.RECORD.format("")
    os.mkfifo(path)
    assert owner_store.Folder(tmp_path).read().record is None
    path.unlink()
    path.touch()
    os.truncate(path, 2**40)
    seen = owner_store.Folder(tmp_path).read()
    assert seen.record is None
    assert seen.version is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
def test_lock_file_of_another_user_can_be_locked(tmp_path):
    def lock_as_nobody():
        os.seteuid(65534)
        try:
            return owner_store.Folder(folder).lock()
        finally:
            os.seteuid(0)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "shared")
        os.chmod(name, 0o755)
        folder.mkdir()
        folder.chmod(0o777)
        root = owner_store.Folder(folder)
        assert root.lock()
        assert lock_as_nobody() is None
        # Simulate a kill of root's process, which leaves its files behind.
        owner_store._LOCK_FILES.discard(root._file)
        os.close(root._file)
        assert lock_as_nobody()


def test_folder_removed_by_its_last_owner_is_recreated(tmp_path, monkeypatch):
    open_lock = owner_store._open_lock

    def remove_first(path):
        monkeypatch.setattr(owner_store, "_open_lock", open_lock)
        path.parent.rmdir()
        return open_lock(path)

    monkeypatch.setattr(owner_store, "_open_lock", remove_first)
    store = owner_store.Folder(tmp_path / "new")
    assert store.lock()
    store.close(owner_record.make())
    assert not list(tmp_path.iterdir())
