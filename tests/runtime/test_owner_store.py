import pytest

from mixer_jax import paths
from mixer_jax.runtime import owner_record, owner_store


@pytest.fixture(params=["folder", "bucket"])
def make(request, tmp_path):
    """Returns a function that makes a store of the same folder."""
    if request.param == "folder":
        return lambda: owner_store.Folder(tmp_path / "new" / "run")
    folder = paths.make(f"{request.getfixturevalue('bucket')}/run")
    return lambda: owner_store.Bucket(folder)


def test_what_is_written_is_read(make):
    store, record = make(), owner_record.make()
    store.lock()
    assert store.read().record is None
    assert store.write(record, store.read().version)
    assert store.read().record == record
    store.close(record)


def test_a_closed_record_is_gone(make):
    store, record = make(), owner_record.make()
    store.lock()
    store.write(record, store.read().version)
    store.close(record)
    assert make().read().record is None


def test_the_record_of_another_owner_stays(make):
    store, other, record = make(), make(), owner_record.make()
    store.lock()
    assert store.write(record, store.read().version)
    other.close(owner_record.make())
    assert make().read().record == record
    store.close(record)
