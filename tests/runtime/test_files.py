"""Atomic writes, checks of destinations, and rescued results."""

import errno
import json
import os
import pathlib
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.runtime import command, files, results
from mixer_jax.runtime.errors import NewerFormatError, UserError

# All file names allowed by the system, printable or not.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 256)


def names(folder):
    return sorted(os.listdir(folder))


@settings(max_examples=50, deadline=None)
@given(name=NAMES, text=st.text(st.characters(codec="utf-8")))
def test_any_file_name_can_be_written(tmp_path_factory, name, text):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "new" / name
    files.check(path, "The file")
    assert names(folder) == []
    for content in ("before", text):
        files.write_text(path, content)
        assert path.read_bytes() == content.encode()
    assert names(folder / "new") == [name]


def test_failed_write_keeps_existing_files(tmp_path):
    def fail(draft):
        draft.write_text("half")
        raise KeyboardInterrupt

    (tmp_path / "old").write_text("old")
    for path in ("old", "new", "a/b/new"):
        with pytest.raises(KeyboardInterrupt):
            files.write(tmp_path / path, fail)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_stale_drafts_are_removed_and_live_ones_kept(tmp_path):
    (tmp_path / ".one.0123456789ab.draft").touch()
    (tmp_path / ".two.0123456789ab.draft").touch()

    def write_slowly(draft):
        files.write_text(tmp_path / "one", "first")
        draft.write_text("second")

    files.write(tmp_path / "one", write_slowly)
    assert names(tmp_path) == [".two.0123456789ab.draft", "one"]
    assert (tmp_path / "one").read_text() == "second"


def test_writes_follow_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/file")
    (tmp_path / "second").symlink_to("link")
    for text in ("first", "again"):
        files.write_text(tmp_path / "second", text)
        assert (tmp_path / "second").is_symlink()
        assert (tmp_path / "disk" / "file").read_text() == text
    assert names(tmp_path / "disk") == ["file"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(UserError, match="cannot be written"):
        files.check(tmp_path / "round", "The file")


def test_file_mode_is_kept(tmp_path):
    files.write_text(tmp_path / "one", "")
    umask = os.umask(0)
    os.umask(umask)
    mode = stat.S_IMODE((tmp_path / "one").stat().st_mode)
    assert mode == 0o666 & ~umask
    (tmp_path / "one").chmod(0o640)
    files.write_text(tmp_path / "one", "")
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o640


def test_checks_reject_unwritable_paths_and_create_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "folder", "it is a folder"),
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (tmp_path / ("n" * 256), "name too long"),
        (tmp_path / "nul\0", "null"),
        ("/proc/nothing/here", "."),
    ):
        with pytest.raises(UserError, match=f"(?i)cannot be written.*{why}"):
            files.check(path, "The file")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"(?i)not a (folder|directory)"):
            files.check_folder(folder, "The files")
    files.check_folder(tmp_path / "new" / "one", "The files")
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_checks_reject_a_read_only_disk(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for check in (files.check, files.check_folder):
        with pytest.raises(UserError, match="Read-only"):
            check(disk / "one", "The file")


def test_full_disk_loses_no_result(disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = bytes(200_000)
    with pytest.raises(
        UserError, match=r"The rows cannot be written to .*: No space .* free"
    ) as caught:
        results.deliver(
            disk / "one", lambda d: d.write_bytes(content), "The rows"
        )
    assert names(disk) == []
    (kept,) = tmp_path.glob("rescued-*/one")
    assert str(kept) in str(caught.value)
    assert kept.read_bytes() == content


def test_failed_rescue_leaves_no_files(disk, tmp_path, monkeypatch):
    monkeypatch.chdir(disk)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(disk))
    with pytest.raises(UserError, match="No space") as caught:
        results.deliver("one", lambda d: d.write_bytes(bytes(200_000)), "It")
    assert "was saved as" not in str(caught.value)
    assert names(disk) == []


def test_file_that_is_a_mount_point_is_overwritten(tmp_path):
    (tmp_path / "outside").write_text("old")
    (tmp_path / "inside").touch()
    bind = ["mount", "--bind", tmp_path / "outside", tmp_path / "inside"]
    if subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("This user cannot mount a file.")
    try:
        files.write_text(tmp_path / "inside", "new")
    finally:
        subprocess.run(["umount", tmp_path / "inside"], check=True)
    assert (tmp_path / "outside").read_text() == "new"
    assert names(tmp_path) == ["inside", "outside"]


def test_resolve_returns_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.resolve("a/../b") == pathlib.Path(tmp_path / "b")


def test_disk_without_free_inodes_is_reported(disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["mount", "-o", "remount,nr_inodes=2", disk], check=True)
    (disk / "last").touch()
    with pytest.raises(
        UserError, match="GB free, but no more files can be created"
    ):
        results.deliver(disk / "new", lambda draft: draft.touch(), "The new")


def test_errors_name_the_file_and_not_its_draft(tmp_path):
    (tmp_path / "there").mkdir()

    def refuse(draft):
        raise PermissionError(errno.EACCES, "Permission denied", str(draft))

    for name, writer, reason in (
        ("there", pathlib.Path.touch, "Is a directory"),
        ("new", refuse, "Permission denied"),
    ):
        with pytest.raises(OSError, match=reason) as refused:
            files.write(tmp_path / name, writer)
        assert refused.value.filename == str(tmp_path / name)
        assert "draft" not in command.explain(refused.value).message


def test_is_filled_raises_if_the_file_system_fails(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").touch()
    names = [str(tmp_path / name) for name in ("a", "b", "c", "a/c", "\0")]
    assert [*map(files.is_filled, names)] == [True, *[False] * 4]

    def fail(path):
        raise OSError(errno.ESTALE, "Stale file handle", path)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(OSError, match="Stale file handle"):
        files.is_filled(names[0])


def test_files_of_a_result_are_replaced_or_rescued_together(
    disk, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (disk / "first").write_text("old")
    writers = {
        "first": files.text_writer("new"),
        "second": lambda draft: draft.write_bytes(bytes(200_000)),
    }
    for folder in (disk, ".", disk / "new" / ".."):
        if folder == ".":
            (tmp_path / "rescue").mkdir()
            monkeypatch.chdir(disk)
            monkeypatch.setattr(
                files.tempfile, "gettempdir", lambda: tmp_path / "rescue"
            )
        with pytest.raises(UserError, match=r"It cannot be .* saved") as caught:
            results.deliver_all(folder, writers, "It")
        kept = pathlib.Path(caught.value.args[0].split(" as ")[1].split(";")[0])
        assert (kept / "first").read_text() == "new"
        assert (kept / "second").stat().st_size == 200_000
        assert (disk / "first").read_text() == "old"
        assert names(disk) == ["first"]
    (disk / "first").unlink()
    results.deliver_all(tmp_path / "a" / "b", writers, "It")
    assert names(tmp_path / "a" / "b") == ["first", "second"]


def test_result_is_rescued_without_a_working_directory(
    disk, tmp_path, monkeypatch
):
    for name in ("gone", "rescue"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    rescue = str(tmp_path / "rescue")
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: rescue)
    with pytest.raises(UserError, match="saved as") as caught:
        results.deliver(
            disk / "one", lambda d: d.write_bytes(bytes(200_000)), "It"
        )
    assert rescue in str(caught.value)


def read_record(path):
    return files.read_record(path, 3, "The box in b", "make it again")


@pytest.mark.parametrize("version", [1, 3])
def test_records_of_known_formats_are_read(tmp_path, version):
    record = {"format": version, "key": "größe"}
    (tmp_path / "r.json").write_text(json.dumps(record))
    assert read_record(tmp_path / "r.json") == record


@pytest.mark.parametrize(
    ("version", "shown"),
    [(4, "4"), (10**3000, "(3,001 characters)")],
    ids=["next", "huge"],
)
def test_a_newer_format_is_refused(tmp_path, version, shown):
    (tmp_path / "r.json").write_text(json.dumps({"format": version}))
    with pytest.raises(NewerFormatError) as raised:
        read_record(tmp_path / "r.json")
    message = str(raised.value)
    assert message.startswith("The box in b has format ")
    assert message.endswith(
        f"{shown}, but this version of mixer_jax reads only formats up to 3; "
        "install a newer version, or make it again."
    )
    assert len(message) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        "{}",
        *(
            f'{{"format": {value}}}'
            for value in (
                "null",
                "0",
                "-4",
                '"1"',
                "1.0",
                "true",
                "1e999",
                "[]",
            )
        ),
    ],
)
def test_a_damaged_record_raises_another_error(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"JSON|Expecting|r\.json") as raised:
        read_record(tmp_path / "r.json")
    assert not isinstance(raised.value, UserError)
