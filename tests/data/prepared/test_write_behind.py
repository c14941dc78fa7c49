import os
import threading

import pytest

from mixer_jax.data.prepared import write_behind


@pytest.fixture
def synced(monkeypatch):
    """The paths and sizes of the files synced so far."""
    calls = []
    monkeypatch.setattr(
        write_behind,
        "settle",
        lambda path: calls.append((path, path.stat().st_size)),
    )
    return calls


def test_a_growing_file_is_synced(tmp_path, synced):
    path = tmp_path / "file"
    with open(path, "wb") as file, write_behind.write_behind(path, 10) as wrote:
        for size in (4, 4, 4, 4):
            file.write(bytes(size))
            file.flush()
            wrote(size)
    assert len(synced) == 1
    assert synced[0][0] == path
    assert synced[0][1] >= 12


def test_small_files_are_not_synced(tmp_path, synced):
    with write_behind.write_behind(tmp_path / "file", 10) as wrote:
        wrote(4)
        wrote(4)
    assert not synced


def test_writing_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    started, go, calls = threading.Event(), threading.Event(), []

    def slow(path):
        calls.append(path)
        started.set()
        assert go.wait(60)

    monkeypatch.setattr(write_behind, "settle", slow)
    with write_behind.write_behind(tmp_path / "file", 10) as wrote:
        wrote(10)
        assert started.wait(60)
        for _ in range(5):
            wrote(10)
        assert len(calls) == 1
        go.set()


def test_the_writer_reports_errors(tmp_path):
    with write_behind.write_behind(tmp_path / "missing", 10) as wrote:
        wrote(10)
    with pytest.raises(FileNotFoundError):
        write_behind.settle(tmp_path / "missing")


def test_settling_keeps_the_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    write_behind.settle(path)
    monkeypatch.delattr(os, "posix_fadvise")  # as on macOS
    write_behind.settle(path)
    assert path.read_bytes() == b"content"
