import contextlib
import os
import sqlite3
import threading
import time
import types

import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import database
from mixer_jax.service.stores.database import Database


@pytest.fixture
def path(tmp_path):
    database.create(tmp_path / "a ?#%.sqlite", {"dim": 3}, first=8)
    return tmp_path / "a ?#%.sqlite"


@pytest.fixture
def base(path):
    opened = Database(path)
    yield opened
    opened.close()


def test_what_is_written_is_synced_to_disk(base):
    with base.reading() as connection:
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal")):
            (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
            assert found == value
    assert base.properties() == {"dim": 3}


def test_numbers_are_never_used_again(base):
    row = "INSERT INTO vectors (item, content, embedding, image, place) "
    row += "VALUES (1, x'00', x'00', '', 0)"
    with base.writing() as connection:
        connection.execute(row)
        connection.execute(row)
        connection.execute("INSERT INTO pictures VALUES (9, x'01')")
        assert database.last_numbers(connection) == (9, 0)
        connection.execute("DELETE FROM vectors WHERE number = 9")
        connection.execute(row)
        assert database.last_numbers(connection) == (10, 1)
        left = connection.execute("SELECT number FROM vectors").fetchall()
        assert left == [(8,), (10,)]
        (count,) = connection.execute(
            "SELECT count(*) FROM pictures"
        ).fetchone()
        assert count == 0


def test_a_failed_block_is_undone(base):
    def fail():
        with base.writing() as connection:
            base.set(dim=4)
            connection.execute("nothing")

    before = base.state
    with pytest.raises(UserError, match="damaged"):
        fail()
    assert base.properties() == {"dim": 3}
    base.set(dim=5)
    assert base.properties() == {"dim": 5}
    assert base.state != before


def test_changes_of_other_connections_change_the_state(base, path):
    other = Database(path)
    before = base.state
    assert base.state == before
    other.set(a=1)
    after = base.state
    assert after != before
    with base.reading():
        assert base.state == after
        other.set(a=2)
        # A transaction sees a consistent snapshot.
        assert base.state == after
        assert base.properties()["a"] == 1
    assert base.state != after
    other.close()


def test_a_waiting_write_delays_no_read(base, path):
    begun = threading.Event()

    def write():
        begun.set()
        base.set(dim=5)

    other, waiting = Database(path), threading.Thread(target=write)
    with contextlib.closing(other), other.writing():
        waiting.start()
        begun.wait()
        time.sleep(0.05)
        assert base.properties() == {"dim": 3}
    waiting.join()
    # If the read had waited for the write, the write would have failed.
    assert base.properties() == {"dim": 5}


def test_a_log_in_use_cannot_be_flushed(path, monkeypatch):
    monkeypatch.setattr(database, "_TIMEOUT", 0.01)
    with (
        contextlib.closing(Database(path)) as base,
        contextlib.closing(Database(path)) as other,
    ):
        with other.reading() as connection:
            connection.execute("SELECT * FROM meta").fetchall()
            base.set(dim=4)
            with pytest.raises(PassingError, match="by another process"):
                base.flush()
        base.flush()
        assert path.with_name(f"{path.name}-wal").stat().st_size == 0


def test_a_closed_file_is_not_written(path):
    base = Database(path)
    base.close()
    for call in (base.properties, base.flush):
        with pytest.raises(UserError, match="the file was closed"):
            call()


@pytest.fixture
def protected(monkeypatch):
    """Makes all folders read-only; a call makes the file system read-only."""
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: mode != os.W_OK and access(p, mode)
    )
    flags = types.SimpleNamespace(f_flag=os.ST_RDONLY)
    return lambda: monkeypatch.setattr(os, "statvfs", lambda _: flags)


def test_a_folder_of_another_user_can_be_read(base, path, request):
    base.set(dim=4)
    request.getfixturevalue("protected")
    with contextlib.closing(Database(path)) as opened:
        assert opened.properties() == {"dim": 4}
        base.set(dim=5)
        assert opened.properties() == {"dim": 5}
        with pytest.raises(UserError, match="write access"):
            opened.set(dim=6)


def test_a_closed_file_in_a_folder_of_another_user_can_be_read(path, protected):
    with contextlib.closing(Database(path)) as opened:
        assert opened.properties() == {"dim": 3}
        assert not list(path.parent.glob("*-wal"))


def test_a_read_only_file_system_can_be_searched(path, protected):
    protected()
    opened = Database(path)
    assert opened.properties() == {"dim": 3}
    with pytest.raises(UserError, match="write access"):
        opened.set(dim=4)
    opened.close()
    path.with_name(f"{path.name}-wal").write_bytes(b"log")
    with pytest.raises(UserError, match="copied while it was being written"):
        Database(path)


@pytest.mark.parametrize(
    ("name", "message", "kind"),
    [
        ("SQLITE_BUSY", "by another process", PassingError),
        ("SQLITE_FULL", "No space left", UserError),
        ("SQLITE_CANTOPEN", "write access", UserError),
        ("SQLITE_CORRUPT_INDEX", "is damaged .*index build", UserError),
        ("", "is damaged", UserError),
    ],
)
def test_errors_are_explained(path, name, message, kind):
    error = sqlite3.OperationalError("why")
    error.sqlite_errorname = name
    explained = database.explain(error, path)
    with pytest.raises(kind, match=message):
        raise explained
