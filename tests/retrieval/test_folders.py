"""A folder's next generation takes effect whole, or the last one stays."""

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
    index,
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


def test_a_generation_takes_the_place_of_another(tmp_path):
    folder = tmp_path / "new" / "one"
    write(folder, "first")
    assert names(folder) == ["first", "mark"]
    # As if an earlier writing had been killed.
    (folder / ".generation-0123").mkdir()
    (folder / ".generation-0123" / "half").touch()
    write(folder, "second")
    assert names(folder) == ["mark", "second"]
    assert names(folder.parent) == ["one"]


def test_files_of_the_user_stay(tmp_path):
    write(tmp_path / "one", "first")
    (tmp_path / "one" / "notes.txt").write_text("mine")
    write(tmp_path / "one", "second")
    assert names(tmp_path / "one") == ["mark", "notes.txt", "second"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_error_leaves_everything_as_it_was(tmp_path, error):
    write(tmp_path / "one", "first")

    def write_half(draft):
        (draft / "half").touch()
        raise error

    for folder in ("one", "new/two"):
        with pytest.raises(error):
            folders.write(tmp_path / folder, KIND, write_half)
    assert names(tmp_path / "one") == ["first", "mark"]
    assert names(tmp_path) == ["one"]


def test_a_process_killed_at_the_switch_has_written_all_or_nothing(
    tmp_path, monkeypatch
):
    """Whatever is left of a process, readers find one generation whole."""
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
def test_a_link_is_followed_and_stays(tmp_path, links):
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


def test_a_link_to_a_folder_that_is_missing_makes_it(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there" / "one")
    write(tmp_path / "link", "first")
    assert names(tmp_path / "there" / "one") == ["first", "mark"]


def test_a_mount_point_is_written_to(disk):
    for text in ("first", "second"):
        write(disk, text)
        assert names(disk) == sorted([text, "mark"])


def test_a_full_disk_loses_nothing_that_was_computed(
    disk, tmp_path, monkeypatch
):
    write(disk, "first")
    monkeypatch.chdir(tmp_path)

    def write_large(draft):
        (draft / "mark").write_text("second")
        (draft / "part").write_bytes(bytes(200_000))

    for rescue in (False, True):
        with pytest.raises(
            UserError, match=r"The index cannot be written to .*: No space"
        ) as said:
            folders.write(disk, KIND, write_large, rescue=rescue)
        assert names(disk) == ["first", "mark"]
        kept = next(tmp_path.glob("rescued-*/disk"), None)
        assert (kept is not None) == rescue
    assert str(kept) in str(said.value)
    assert (kept / "part").stat().st_size == 200_000


def test_other_things_are_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"index is a folder, but .* is a file"):
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
def test_a_damaged_pointer_is_said(tmp_path, text):
    write(tmp_path / "one", "first")
    (tmp_path / "one" / ".generation.json").write_text(text)
    with pytest.raises(UserError, match=r"generation\.json is damaged"):
        folders.find(tmp_path / "one", "mark")


def test_a_generation_that_is_being_written_stays(tmp_path):
    """Two commands may write one folder at the same time; the last counts."""

    def write_slowly(draft):
        write(tmp_path / "one", "first")
        writer("second")(draft)

    folders.write(tmp_path / "one", KIND, write_slowly)
    assert names(tmp_path / "one") == ["mark", "second"]
    assert json.dumps(names(tmp_path)) == '["one"]'


def test_writers_at_once_do_not_mix_their_files(tmp_path):
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
def test_a_pointer_to_what_is_no_generation_takes_nothing(tmp_path, pointer):
    for name in ("one", "other"):
        write(tmp_path / name, "first")
    (tmp_path / "one" / ".generation.json").write_text(json.dumps(pointer))
    for act in (folders.find, write):
        with pytest.raises(UserError, match=r"generation\.json is damaged"):
            act(tmp_path / "one", "mark")
    assert names(tmp_path / "other") == ["first", "mark"]


def test_a_name_that_the_next_generation_lacks_is_gone_at_the_switch(
    tmp_path, monkeypatch
):
    write(tmp_path / "one", "first")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_remove", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "one", "second")
    assert folders.find(tmp_path / "one", "mark").read_text() == "second"
    assert not folders.find(tmp_path / "one", "first").exists()


def test_many_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        texts = ["first", "second"] * 40
        list(pool.map(write, [tmp_path / "one"] * len(texts), texts))
    last = folders.find(tmp_path / "one", "mark").read_text()
    assert names(tmp_path / "one") == sorted([last, "mark"])


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def no_lock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_lock)
    for text in ("first", "second"):
        write(tmp_path / "one", text)
        assert names(tmp_path / "one") == sorted([text, "mark"])


def test_a_generation_stays_while_it_is_read(tmp_path):
    write(tmp_path / "one", "first")
    with ThreadPoolExecutor() as pool:
        with guards.steady(tmp_path / "one"):
            written = pool.submit(write, tmp_path / "one", "second")
            with pytest.raises(TimeoutError):
                written.result(timeout=0.3)
            assert folders.find(tmp_path / "one", "first").exists()
        written.result()
    assert names(tmp_path / "one") == ["mark", "second"]


FOREIGN = {
    "index": (index.KIND, {"index.json": '{"pages": []}'}),
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


def test_a_damaged_folder_of_ours_is_replaced(tmp_path):
    for name in index.KIND.names:
        (tmp_path / name).write_text('{"workdir": ')
    folders.check(tmp_path, index.KIND)


def test_a_folder_of_another_program_is_not_replaced(tmp_path):
    """Other programs have an index.json or a model.safetensors as well."""
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
    # A damaged one may be written again.
    for name in kind.names:
        (tmp_path / name).write_text("no JSON")
    folders.check(tmp_path, kind)


@pytest.mark.parametrize(
    "kind", [bundle.KIND, export.KIND, export_encoders.KIND, index.KIND]
)
def test_an_encoder_or_a_web_page_is_none_of_ours(tmp_path, kind):
    for name in kind.names:
        (tmp_path / name).write_text('{"model_type": "bert", "name": "page"}')
    with pytest.raises(UserError, match="choose another folder"):
        folders.check(tmp_path, kind)


def test_what_was_computed_is_kept_if_the_folder_has_changed(
    tmp_path, monkeypatch
):
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
        with pytest.raises(UserError, match="saved as") as said:
            folders.write(folder, KIND, writer("first"), rescue=True)
        (kept,) = tmp_path.glob(f"rescued-*/one{number}")
        assert str(kept) in str(said.value)
        assert names(kept) == ["first", "mark"]


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root has other users.")
@pytest.mark.parametrize("mode", [0o333, 0o444, 0o555])
def test_a_folder_without_some_access_is_refused(mode):
    # Other users may not search pytest's own folders.
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


def test_a_folder_that_holds_a_mount_point_is_refused(disk):
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


def test_another_run_that_has_taken_over_keeps_its_files(tmp_path, monkeypatch):
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
