"""Databases of Milvus Lite."""

import subprocess
import sys
from concurrent import futures

import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.milvus import lite
from tests.service.stores.items import PROPERTIES, found, item, make


def test_a_database_stays_open_until_its_last_user_leaves(tmp_path):
    path = tmp_path / "index.db"
    with make(path, item("a", 1)):
        with place.find(path).open() as other:
            assert found(other, 1) == ["a"]
        with place.find(path).open() as other:
            assert found(other, 1) == ["a"]
    assert not lite.is_locked(path)
    assert not lite._opened


def test_several_threads_can_open_a_database(tmp_path):
    path = tmp_path / "index.db"
    make(path, item("a", 1)).close()

    def look(_):
        with place.find(path).open() as store:
            return found(store, 1)

    with futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, range(12))) == [["a"]] * 12
    assert not lite._opened


def test_another_process_is_named(tmp_path):
    path = tmp_path / "index.db"
    make(path, item("a", 1)).close()
    code = f"""
import sys
from mixer_jax.service.stores import place
with place.find({str(path)!r}).open():
    print("open", flush=True)
    sys.stdin.read()
"""
    run = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(run, **pipes) as process:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(PassingError, match="in use by another process"):
            place.find(path).open()
        process.stdin.close()
    with place.find(path).open() as store:
        assert found(store, 1) == ["a"]


def test_a_folder_with_other_contents_is_refused(tmp_path):
    folder = tmp_path / "own.db"
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    with pytest.raises(UserError, match="not a Milvus Lite database"):
        place.find(folder).draft(PROPERTIES)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_damaged_files_of_indexes_are_built_again(tmp_path):
    path = tmp_path / "index.db"
    given = [item(f"{i}", 1, i) for i in range(50)]
    with make(path, *given, index_kind="HNSW") as store:
        store.flush()
    files = list(path.glob("collections/*/partitions/*/indexes/*"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    with place.find(path).open() as store:
        assert found(store, 1, k=2) == ["0", "1"]
