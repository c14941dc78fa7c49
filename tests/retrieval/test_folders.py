"""A new generation of a folder takes effect completely or not at all."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import tempfile
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixer_jax.retrieval import (
    bundle,
    export,
    export_encoders,
    folders,
)
from mixer_jax.runtime.errors import LostError, UserError
from mixer_jax.runtime.ownership import guards

KIND = folders.Kind("index", "mark", ("mark", "first", "second", "part"))


def writer(text):
    def write_files(draft):
        assert not list(draft.iterdir())
        (draft / "mark").write_text(text)
        (draft / text).touch()

    return write_files


def write(folder, text):
    folders.write(folder, KIND, writer(text))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_generation_replaces_the_previous_one(tmp_path):
    folder = tmp_path / "new" / "one"
    write(folder, "first")
    assert names(folder) == ["first", "mark"]
    # Left behind by a killed writer.
    (folder / ".generation-0123").mkdir()
    (folder / ".generation-0123" / "half").touch()
    write(folder, "second")
    assert names(folder) == ["mark", "second"]
    assert names(folder.parent) == ["one"]


def test_files_of_the_user_are_kept(tmp_path):
    write(tmp_path / "one", "first")
    (tmp_path / "one" / "notes.txt").write_text("mine")
    write(tmp_path / "one", "second")
    assert names(tmp_path / "one") == ["mark", "notes.txt", "second"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_error_leaves_everything_unchanged(tmp_path, error):
    write(tmp_path / "one", "first")

    def write_half(draft):
        (draft / "half").touch()
        raise error

    for folder in ("one", "new/two"):
        with pytest.raises(error):
            folders.write(tmp_path / folder, KIND, write_half)
    assert names(tmp_path / "one") == ["first", "mark"]
    assert names(tmp_path) == ["one"]


def test_a_process_killed_while_switching_has_written_all_or_nothing(
    tmp_path, monkeypatch
):
    """Readers always find one complete generation."""
    folder = tmp_path / "one"
    write(folder, "first")
    replace, steps = os.replace, 0
    while True:
        calls = 0

        def killed(*paths, limit=steps):
            nonlocal calls
            if calls == limit:
                raise SystemExit("killed")
            calls += 1
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            # A killed process would not clean up either.
            patch.setattr(folders.shutil, "rmtree", lambda *_, **__: None)
            with contextlib.suppress(SystemExit):
                write(folder, "second")
                break
        text = folders.find(folder, "mark").read_text()
        assert text == ("second" if steps else "first")
        assert folders.find(folder, text).exists()
        write(folder, "first")
        assert names(folder) == ["first", "mark"]
        steps += 1
    assert steps >= 3


@pytest.mark.parametrize("links", [1, 2])
def test_a_symbolic_link_is_followed_and_kept(tmp_path, links):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "disk" / "target"
    link.mkdir()
    for number in range(links):
        (tmp_path / f"link{number}").symlink_to(link)
        link = tmp_path / f"link{number}"
    for text in ("first", "second"):
        write(link, text)
        assert link.is_symlink()
        assert names(tmp_path / "disk" / "target") == sorted([text, "mark"])
    assert names(tmp_path / "disk") == ["target"]


def test_the_target_of_a_dangling_link_is_created(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there" / "one")
    write(tmp_path / "link", "first")
    assert names(tmp_path / "there" / "one") == ["first", "mark"]


def test_a_mount_point_can_be_written_to(disk):
    for text in ("first", "second"):
        write(disk, text)
        assert names(disk) == sorted([text, "mark"])


def test_results_are_rescued_from_a_full_disk(disk, tmp_path, monkeypatch):
    write(disk, "first")
    monkeypatch.chdir(tmp_path)

    def write_large(draft):
        (draft / "mark").write_text("second")
        (draft / "part").write_bytes(bytes(200_000))

    for rescue in (False, True):
        with pytest.raises(
            UserError, match=r"The index cannot be written to .*: No space"
        ) as error:
            folders.write(disk, KIND, write_large, rescue=rescue)
        assert names(disk) == ["first", "mark"]
        kept = next(tmp_path.glob("rescued-*/disk"), None)
        assert (kept is not None) == rescue
    assert str(kept) in str(error.value)
    assert (kept / "part").stat().st_size == 200_000


def test_files_and_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"index is written to a folder, but .* is a file"
    ):
        write(tmp_path / "file", "first")
    with pytest.raises(UserError, match="contents other than the index"):
        write(tmp_path, "first")
    with pytest.raises(UserError, match=r"written to .*Not a directory"):
        write(tmp_path / "file" / "below", "first")
    with pytest.raises(UserError, match=r"too long; choose another path"):
        folders.check(tmp_path / ("long" * 100), KIND)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "first")
    assert names(tmp_path) == ["empty", "file"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"generation": 3}'])
def test_a_damaged_pointer_raises_an_error(tmp_path, text):
    write(tmp_path / "one", "first")
    (tmp_path / "one" / ".generation.json").write_text(text)
    with pytest.raises(UserError, match=r"generation\.json is damaged"):
        folders.find(tmp_path / "one", "mark")


def test_a_generation_that_is_being_written_is_kept(tmp_path):
    """If two commands write a folder at the same time, the last one wins."""

    def write_slowly(draft):
        write(tmp_path / "one", "first")
        writer("second")(draft)

    folders.write(tmp_path / "one", KIND, write_slowly)
    assert names(tmp_path / "one") == ["mark", "second"]
    assert json.dumps(names(tmp_path)) == '["one"]'


def test_concurrent_writers_do_not_mix_their_files(tmp_path):
    def write_one(text):
        def write_files(draft):
            for name in KIND.names:
                (draft / name).write_text(text)

        folders.write(tmp_path / "one", KIND, write_files)

    for _ in range(10):
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(write_one, "abcd"))
        found = {
            folders.find(tmp_path / "one", name).read_text()
            for name in KIND.names
        }
        assert len(found) == 1
        assert names(tmp_path / "one") == sorted(KIND.names)


@pytest.mark.parametrize(
    "pointer",
    [
        {"generation": "../other", "names": ["mark"]},
        {"generation": ".generation-ab12", "names": ["mark"]},
        {"generation": ".generation-ab12"},
        {"generation": ".generation-ab12", "names": 5},
        {"generation": "long" * 100, "names": ["mark"]},
    ],
)
def test_an_invalid_pointer_raises_an_error_and_removes_nothing(
    tmp_path, pointer
):
    for name in ("one", "other"):
        write(tmp_path / name, "first")
    (tmp_path / "one" / ".generation.json").write_text(json.dumps(pointer))
    for act in (folders.find, write):
        with pytest.raises(UserError, match=r"generation\.json is damaged"):
            act(tmp_path / "one", "mark")
    assert names(tmp_path / "other") == ["first", "mark"]


def test_a_file_missing_in_the_next_generation_disappears_at_the_switch(
    tmp_path, monkeypatch
):
    write(tmp_path / "one", "first")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_remove", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "one", "second")
    assert folders.find(tmp_path / "one", "mark").read_text() == "second"
    assert not folders.find(tmp_path / "one", "first").exists()


def test_many_concurrent_writers_do_not_interfere(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        texts = ["first", "second"] * 40
        list(pool.map(write, [tmp_path / "one"] * len(texts), texts))
    last = folders.find(tmp_path / "one", "mark").read_text()
    assert names(tmp_path / "one") == sorted([last, "mark"])


def test_a_file_system_without_locks_can_be_written_to(tmp_path, monkeypatch):
    def no_lock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_lock)
    for text in ("first", "second"):
        write(tmp_path / "one", text)
        assert names(tmp_path / "one") == sorted([text, "mark"])


def test_a_generation_is_kept_while_it_is_read(tmp_path):
    write(tmp_path / "one", "first")
    with ThreadPoolExecutor() as pool:
        with guards.steady(tmp_path / "one"):
            written = pool.submit(write, tmp_path / "one", "second")
            with pytest.raises(TimeoutError):
                written.result(timeout=0.3)
            assert folders.find(tmp_path / "one", "first").exists()
        written.result()
    assert names(tmp_path / "one") == ["mark", "second"]


INDEX = folders.Kind(
    "index", "index.json", ("index.json",), "index.json", ("format", "items")
)
FOREIGN = {
    "index": (INDEX, {"index.json": '{"pages": []}'}),
    "bundle": (
        bundle.KIND,
        {
            "config.json": '{"model_type": "bert"}',
            "model.safetensors": "weights",
            "tokenizer.json": "{}",
            "README.md": "# BERT",
        },
    ),
    "proxies": (export.KIND, {"export.json": "[1]", "categories.json": "[]"}),
    "encoders": (export_encoders.KIND, {"encoders.json": "{}"}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_another_program_are_not_replaced(tmp_path, name):
    kind, files = FOREIGN[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match="has contents other than"):
        folders.check(tmp_path, kind)
    with pytest.raises(UserError, match="has contents other than"):
        folders.write(tmp_path, kind, lambda draft: (draft / "x").touch())
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files


def test_a_damaged_folder_of_this_kind_may_be_replaced(tmp_path):
    for name in INDEX.names:
        (tmp_path / name).write_text('{"workdir": ')
    folders.check(tmp_path, INDEX)


def test_a_folder_without_the_record_is_not_replaced(tmp_path):
    """Other programs may also have an index.json or a model.safetensors."""
    kind = KIND._replace(record="mark", keys=("N", "D"))
    for text in (
        "{}",
        '{"N": 1}',
        "[]",
        '"N D"',
        "null",
        "no JSON",
        "[" * 9999,
    ):
        (tmp_path / "mark").write_text(text)
        with pytest.raises(UserError, match="contents other than the index"):
            folders.check(tmp_path, kind)
        with pytest.raises(UserError, match="contents other than the index"):
            folders.write(tmp_path, kind, writer("first"))
        assert names(tmp_path) == ["mark"]
    (tmp_path / "mark").write_text('{"N": 1, "D": 2, "E": 3}')
    folders.check(tmp_path, kind)
    # A damaged folder may be replaced.
    for name in kind.names:
        (tmp_path / name).write_text("no JSON")
    folders.check(tmp_path, kind)


@pytest.mark.parametrize(
    "kind", [bundle.KIND, export.KIND, export_encoders.KIND, INDEX]
)
def test_folders_of_encoders_or_web_pages_are_not_replaced(tmp_path, kind):
    for name in kind.names:
        (tmp_path / name).write_text('{"model_type": "bert", "name": "page"}')
    with pytest.raises(UserError, match="choose another folder"):
        folders.check(tmp_path, kind)


def test_results_are_rescued_if_the_folder_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, change in enumerate(
        (
            lambda folder: (folder / "letter.txt").write_text("mine"),
            lambda folder: (folder / ".generation.json").write_text("["),
            lambda folder: (folder.rmdir(), folder.touch()),
        )
    ):
        folder = tmp_path / f"one{number}"
        folder.mkdir()
        folders.check(folder, KIND)
        change(folder)
        with pytest.raises(UserError, match="saved as") as error:
            folders.write(folder, KIND, writer("first"), rescue=True)
        (kept,) = tmp_path.glob(f"rescued-*/one{number}")
        assert str(kept) in str(error.value)
        assert names(kept) == ["first", "mark"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change the user")
@pytest.mark.parametrize("mode", [0o333, 0o444, 0o555])
def test_a_folder_without_full_access_raises_an_error(mode):
    # Other users have no access to pytest's temporary folders.
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = pathlib.Path(parent, "one")
        folder.mkdir()
        folder.chmod(mode)
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"(?s)one.*denied.*another"):
                folders.check(folder, KIND)
        finally:
            os.seteuid(0)


def test_a_folder_that_contains_a_mount_point_raises_an_error(disk):
    write(disk.parent / "one", "part")
    (disk.parent / "one" / "part").unlink()
    (disk.parent / "one" / "part").mkdir()
    mount = ["mount", "--bind", disk, disk.parent / "one" / "part"]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(UserError, match="part is a mount point"):
            folders.check(disk.parent / "one", KIND)
    finally:
        subprocess.run(["umount", disk.parent / "one" / "part"], check=True)
    folders.check(disk.parent / "one", KIND)


def test_files_of_a_run_that_has_taken_over_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "one"
    with folders.owned(folder, KIND):
        write(folder, "first")
        (folder / ".owner.json").unlink()
        with pytest.raises(LostError, match="rescued") as lost:
            folders.write(folder, KIND, writer("second"), rescue=True)
        assert names(folder) == [".owner", "first", "mark"]
    (kept,) = tmp_path.glob("rescued-*/one")
    assert str(kept) in str(lost.value)
    assert names(kept) == ["mark", "second"]
