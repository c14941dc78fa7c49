"""A folder or file is used by one run at a time."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

from mixer_jax.runtime import files, paths, results
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import (
    bucket_store,
    folder_lock,
    owner_record,
    owner_store,
)

# Holds a folder until killed; avoids slow imports.
HOLDER = """
import subprocess, sys, time
sys.path.insert(0, {root!r})
from mixer_jax.runtime.ownership import folder_lock
with folder_lock.hold(sys.argv[1], "--workdir"):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", "bucket"])
def folder(request, tmp_path):
    """A missing folder, local or in a bucket."""
    if request.param == "folder":
        return tmp_path / "new" / "run"
    return paths.make(f"{request.getfixturevalue('bucket')}/run")


def open_store(folder):
    kind = (
        bucket_store.Bucket if paths.is_remote(folder) else owner_store.Folder
    )
    return kind(folder)


def write_record(folder, age=0.0, **changes):
    """Writes the record of another run, as of `age` seconds ago."""
    record = owner_record.make()._replace(**changes)
    if paths.is_remote(folder):
        store = open_store(folder)
        while not store.write(record, store.read().version):
            pass  # A heartbeat changed the version; try again.
    else:
        paths.make_folder(folder)
        path = folder / owner_store.RECORD.format("")
        path.write_text(owner_record.to_json(record))
        then = time.time() - age
        os.utime(path, (then, then))
    return record


ELSEWHERE = {"host": "elsewhere", "boot": "another", "process": 17}


def test_second_run_is_rejected_with_the_owner_in_the_message(folder):
    with folder_lock.hold(folder, "--workdir") as owner:
        owner.check()
        with (
            pytest.raises(UserError, match="--workdir") as caught,
            folder_lock.hold(folder, "--workdir"),
        ):
            pass
        owner.check()
    name, _ = owner_record._machine()
    assert f"process {os.getpid()} on {name}, since 20" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_release_removes_the_empty_folder(folder):
    for _ in range(2):
        with folder_lock.hold(folder, "--workdir"):
            assert folder.is_dir()
        assert not folder.exists()


def test_release_keeps_files_of_the_run(tmp_path):
    with folder_lock.hold(tmp_path / "run", "--workdir"):
        (tmp_path / "run" / "config.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [
        "config.json"
    ]


def test_exception_releases_the_folder(folder):
    with (
        pytest.raises(ZeroDivisionError),
        folder_lock.hold(folder, "--workdir"),
    ):
        raise ZeroDivisionError
    with folder_lock.hold(folder, "--workdir"):
        pass


def test_parts_of_a_folder_are_owned_separately(tmp_path):
    with (
        folder_lock.hold(tmp_path, "--workdir", part="-0"),
        folder_lock.hold(tmp_path, "--workdir", part="-1"),
        pytest.raises(UserError),
        folder_lock.hold(tmp_path, "--workdir", part="-1"),
    ):
        pass


@pytest.fixture
def no_sleep(monkeypatch):
    """Fails the test if the lock waits."""

    def wait(_):
        raise AssertionError("The lock waits.")

    monkeypatch.setattr(folder_lock.time, "sleep", wait)


def start_holder(folder):
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(root=root), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(holder.stdout.readline())
    return holder, child


def test_restart_after_a_kill_does_not_wait(tmp_path, no_sleep):
    """Surviving child processes do not keep the folder locked."""
    holder, child = start_holder(tmp_path)
    try:
        with (
            pytest.raises(UserError, match=f"process {holder.pid} "),
            folder_lock.hold(tmp_path, "--workdir"),
        ):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # The child is alive.
        assert (tmp_path / owner_store.RECORD.format("")).exists()
        with folder_lock.hold(tmp_path, "--workdir"):
            pass
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.communicate()


def test_waits_for_the_lock_of_a_dying_process(tmp_path, monkeypatch):
    """The lock is released with the process's memory, maybe seconds later."""
    monkeypatch.setattr(owner_record, "_is_dying", lambda _: True)
    first = folder_lock.hold(tmp_path, "--workdir")
    first.__enter__()
    threading.Timer(0.2, first.__exit__, (None, None, None)).start()
    with folder_lock.hold(tmp_path, "--workdir"):
        pass


@pytest.mark.filterwarnings("ignore:os.fork")
def test_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    over = context.Event()
    first = folder_lock.hold(tmp_path, "--workdir")
    first.__enter__()
    child = context.Process(target=over.wait)
    child.start()
    first.__exit__(None, None, None)
    try:
        with folder_lock.hold(tmp_path, "--workdir"):
            pass
    finally:
        over.set()
        child.join()


def test_dead_process_of_this_machine_is_replaced_at_once(folder, no_sleep):
    write_record(folder, process=2**22, ticks="1")
    with folder_lock.hold(folder, "--workdir"):
        pass


def test_reused_process_id_counts_as_another_process(folder, no_sleep):
    write_record(folder, ticks="1")
    with folder_lock.hold(folder, "--workdir"):
        pass


@pytest.mark.parametrize("locks", [True, False])
def test_living_owner_is_detected_with_and_without_locks(
    tmp_path, monkeypatch, locks
):
    """The record of a living process is enough to reject another run."""
    if not locks:

        def flock(*_):
            raise OSError("Locks are not supported.")

        monkeypatch.setattr(owner_store.fcntl, "flock", flock)
    with (
        folder_lock.hold(tmp_path, "--workdir"),
        pytest.raises(UserError, match="Another run is using"),
        folder_lock.hold(tmp_path, "--workdir"),
    ):
        pass


def test_stale_record_of_another_machine_is_replaced(tmp_path, no_sleep):
    write_record(tmp_path, age=folder_lock.STALE + 1, **ELSEWHERE)
    with folder_lock.hold(tmp_path, "--workdir") as owner:
        owner.check()


def test_age_uses_the_clock_of_the_storage(tmp_path, monkeypatch, no_sleep):
    """The clock of this machine may be off by an hour."""
    write_record(tmp_path, age=folder_lock.STALE + 1, **ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    with folder_lock.hold(tmp_path, "--workdir"):
        pass


def test_waits_at_most_a_minute_for_a_recent_record(folder, monkeypatch):
    slept = []
    clock = types.SimpleNamespace(
        monotonic=lambda: sum(slept), sleep=slept.append
    )
    monkeypatch.setattr(folder_lock, "time", clock)
    write_record(folder, **ELSEWHERE)
    messages = []
    with folder_lock.hold(folder, "--workdir", say=messages.append) as owner:
        owner.check()
    (message,) = messages
    assert "process 17 on elsewhere" in message
    # Less than 60 s if reading the record was slow, as on a busy machine.
    assert 0 < int(re.search(r"up to (\d+) s", message)[1]) <= 60
    assert 0 < sum(slept) <= 60


def test_heartbeat_during_the_wait_rejects_the_second_run(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "_POLL", 0.05)
    record = write_record(folder, **ELSEWHERE)

    def beat(_):
        store = open_store(folder)
        store._version = store.read().version
        store.beat(record)

    with (
        pytest.raises(UserError, match="process 17 on elsewhere, since"),
        folder_lock.hold(folder, "--workdir", say=beat),
    ):
        pass
    assert open_store(folder).read().record == record


def test_owner_that_ends_during_the_wait_frees_the_folder(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "_POLL", 0.05)
    record = write_record(folder, **ELSEWHERE)

    def end(_):
        store = open_store(folder)
        store._version = store.read().version
        store.close(record)

    with folder_lock.hold(folder, "--workdir", say=end) as owner:
        owner.check()


def test_heartbeats_change_the_version(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    with folder_lock.hold(folder, "--workdir") as owner:
        first = open_store(folder).read().version
        while open_store(folder).read().version == first:
            time.sleep(0.02)
        owner.check()


def test_lost_owner_stops_and_keeps_the_new_record(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    with folder_lock.hold(folder, "--workdir") as owner:
        other = write_record(folder, **ELSEWHERE)
        with pytest.raises(
            folder_lock.LostError,
            match=r"taken over .* process 17 on elsewhere",
        ):
            owner.check()
        time.sleep(0.1)  # Heartbeats must not restore the lost record.
    assert open_store(folder).read().record == other


def test_owner_whose_record_was_removed_is_lost(tmp_path):
    with folder_lock.hold(tmp_path, "--workdir") as owner:
        (tmp_path / owner_store.RECORD.format("")).unlink()
        with pytest.raises(folder_lock.LostError):
            owner.check()


WRONG_KINDS = json.dumps({name: [1] for name in owner_record.Record._fields})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"host": 1}',
        b"\0",
        b"\x87\xff",
        b"[" * 100_000,
        WRONG_KINDS.encode(),
    ],
    ids=lambda text: text[:8].hex(),
)
def test_stale_damaged_record_is_replaced(tmp_path, no_sleep, text):
    write_record(tmp_path)
    path = tmp_path / owner_store.RECORD.format("")
    path.write_bytes(text)
    os.utime(path, (1, 1))
    with folder_lock.hold(tmp_path, "--workdir"):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("name", ["file", "file/run", "link/run"])
def test_path_through_a_file_is_rejected(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with (
        pytest.raises(
            UserError,
            match=r"cannot be written to: \S+/file is not a folder.*"
            "with --out",
        ),
        folder_lock.hold(tmp_path / name, "--out"),
    ):
        pass


def test_link_to_a_missing_folder_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("there/deep")
    with folder_lock.hold(tmp_path / "link" / "run", "--workdir"):
        assert list((tmp_path / "there" / "deep" / "run").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_only_one_of_several_concurrent_runs_wins(folder):
    """Threads can stand in for processes: a lock belongs to an open file."""
    ready = threading.Barrier(4)
    results = []

    def compete():
        ready.wait()
        try:
            with folder_lock.hold(folder, "--workdir"):
                results.append("won")
                done.wait()
        except UserError:
            results.append("refused")

    done = threading.Event()
    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(results) < 4:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 3 + ["won"]


def test_deleted_lock_file_does_not_admit_a_second_run(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    monkeypatch.setattr(folder_lock, "_POLL", 0.1)
    with folder_lock.hold(tmp_path, "--workdir") as owner:
        (tmp_path / owner_store.LOCK.format("")).unlink()
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on "),
            folder_lock.hold(tmp_path, "--workdir", say=lambda _: None),
        ):
            pass
        owner.check()


def test_copy_of_a_folder_in_use_becomes_free(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "STALE", 0.5)
    monkeypatch.setattr(folder_lock, "_POLL", 0.1)
    with folder_lock.hold(tmp_path / "run", "--workdir"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with folder_lock.hold(tmp_path / "copy", "--workdir", say=[].append):
            pass


def test_owner_of_a_moved_folder_keeps_the_new_lock_at_its_old_path(tmp_path):
    first = folder_lock.hold(tmp_path / "run", "--workdir")
    first.__enter__()
    (tmp_path / "run").rename(tmp_path / "moved")
    with folder_lock.hold(tmp_path / "run", "--workdir"):
        first.__exit__(None, None, None)
        assert (tmp_path / "run" / owner_store.LOCK.format("")).exists()
        with (
            pytest.raises(UserError, match="Another run is using"),
            folder_lock.hold(tmp_path / "run", "--workdir"),
        ):
            pass


def test_living_process_of_another_container_keeps_the_folder(
    tmp_path, monkeypatch
):
    """Its process ID is unknown here; only its heartbeats show it is alive."""

    def flock(*_):
        raise OSError("Locks are not supported.")

    monkeypatch.setattr(owner_store.fcntl, "flock", flock)
    monkeypatch.setattr(folder_lock, "_POLL", 0.05)
    boot = owner_record.make().boot.split()[0]
    record = write_record(
        tmp_path, boot=f"{boot} pid:[1]", process=2**22, ticks="1"
    )

    def beat(_):
        open_store(tmp_path).beat(record)

    with (
        pytest.raises(UserError, match=f"process {2**22} on"),
        folder_lock.hold(tmp_path, "--workdir", say=beat),
    ):
        pass


def test_record_of_a_dead_container_is_replaced_at_once(tmp_path, no_sleep):
    boot = owner_record.make().boot.split()[0]
    write_record(tmp_path, boot=f"{boot} pid:[1]", process=2**22, ticks="1")
    with folder_lock.hold(tmp_path, "--workdir"):
        pass


def test_next_heartbeat_detects_a_lost_folder(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    with folder_lock.hold(folder, "--workdir") as owner:
        time.sleep(0.1)
        owner.check_heard()
        write_record(folder, **ELSEWHERE)
        while not owner._lost:
            time.sleep(0.02)
        with pytest.raises(folder_lock.LostError, match="process 17"):
            owner.check_heard()


def test_owner_of_a_moved_folder_gets_an_error(tmp_path):
    with folder_lock.hold(tmp_path / "run", "--workdir") as owner:
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(
            folder_lock.LostError, match="run was moved, removed"
        ):
            owner.check()


@pytest.mark.parametrize("is_stale", [False, True])
def test_only_one_of_several_concurrent_runs_wins_without_locks(
    tmp_path, monkeypatch, is_stale
):
    """All runs read the record before one of them writes."""

    def flock(*_):
        raise OSError("Locks are not supported.")

    if is_stale:
        write_record(tmp_path, age=folder_lock.STALE + 1, **ELSEWHERE)
    monkeypatch.setattr(owner_store.fcntl, "flock", flock)
    wait_until_free = folder_lock._wait_until_free
    barrier, done, results = threading.Barrier(3), threading.Event(), []

    def wait(*arguments):
        free = wait_until_free(*arguments)
        barrier.wait()
        return free

    def compete():
        try:
            with folder_lock.hold(tmp_path, "--workdir"):
                results.append("won")
                done.wait()
        except UserError:
            results.append("refused")

    monkeypatch.setattr(folder_lock, "_wait_until_free", wait)
    threads = [threading.Thread(target=compete) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(results) < 3:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused", "refused", "won"]
    assert not list(tmp_path.glob(".owner[.-]*"))


def test_interrupted_wait_leaves_no_lock(tmp_path):
    write_record(tmp_path, **ELSEWHERE)

    def interrupt(_):
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        folder_lock.hold(tmp_path, "--workdir", say=interrupt),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".owner.json"]
    assert owner_store.Folder(tmp_path).lock()


def test_file_has_one_owner_under_all_its_paths(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "made.npz").symlink_to("there/made.npz")
    with folder_lock.hold_file(tmp_path / "there" / "made.npz", "--out"):
        for path in (tmp_path / "link" / "made.npz", tmp_path / "made.npz"):
            with (
                pytest.raises(
                    UserError, match="another file with --out"
                ) as caught,
                folder_lock.hold_file(path, "--out"),
            ):
                pass
            assert f"using {path}: process" in str(caught.value)


def test_files_of_a_folder_are_owned_separately(folder):
    with (
        folder_lock.hold_file(folder / "made", "--out"),
        folder_lock.hold_file(folder / "made.json", "--out"),
        folder_lock.hold_file(folder / ("long" * 63), "--out"),
        folder_lock.hold(folder, "--out"),
    ):
        pass
    assert not folder.exists()


@pytest.mark.parametrize("is_file", [False, True])
def test_lost_owner_does_not_overwrite_files(tmp_path, monkeypatch, is_file):
    """Without locks, a run suspended for a minute loses its folder."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "made.npz"
    hold = folder_lock.hold_file if is_file else folder_lock.hold
    with hold(out if is_file else out.parent, "--out"):
        files.write_text(out, "first")
        (record,) = out.parent.glob(".owner*.json")
        taker = owner_record.make()._replace(**ELSEWHERE)
        record.write_text(owner_record.to_json(taker))
        with pytest.raises(folder_lock.LostError, match="taken over") as lost:
            files.write_text(out, "second")
        assert "saved" not in str(lost.value)
        with pytest.raises(folder_lock.LostError, match="taken over") as lost:
            results.deliver(out, files.text_writer("second"), "The rows")
    (kept,) = tmp_path.glob("rescued-*/made.npz")
    assert f"{lost.value}".endswith(f" saved as {kept}; move it from there.")
    assert kept.read_text() == "second"
    assert out.read_text() == "first"
    assert sorted(out.parent.iterdir()) == [record, out]
    files.write_text(out, "third")


def test_pipe_in_place_of_the_lock_file_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / owner_store.LOCK.format(""))
    system_open = os.open

    def open_as_other_user(path, flags, *arguments, **options):
        if os.fspath(path).endswith(".owner") and flags & os.O_RDWR:
            raise PermissionError  # as for another user's file
        assert flags & os.O_NONBLOCK
        return system_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_as_other_user)
    with folder_lock.hold(tmp_path, "--workdir"):
        pass
