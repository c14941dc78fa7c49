import errno
import os
import socket

import pytest

from mixer_jax.data.readers import rows, walk
from mixer_jax.runtime.errors import UserError


def tree(root):
    left_out = rows.LeftOut()
    found = {
        "/".join(parts): names for parts, names in walk.walk(root, left_out)
    }
    return found, {why: count for why, count in left_out.items() if count}


def test_folders_and_files_are_listed_in_order(tmp_path):
    for name in ("b/2", "b/10", "a/x/1", "a/0", "c0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, left_out = tree(tmp_path)
    assert list(found.items()) == [
        ("", ["c0"]),
        ("a", ["0"]),
        ("a/x", ["1"]),
        ("b", ["10", "2"]),
    ]
    assert left_out == {}


def test_links_are_followed_except_in_cycles(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "1").touch()
    (root / "a" / "b" / "up").symlink_to(root / "a")
    (root / "a" / "b" / "self").symlink_to(".")
    (root / "top").symlink_to(root)
    (root / "again").symlink_to(root / "a" / "b")
    found, left_out = tree(root)
    assert found["a/b"] == ["1"]
    assert found["again"] == ["1"]
    # again/up links to a, which is not an ancestor here, so it is entered.
    assert found["again/up"] == []
    assert left_out[walk.CYCLE] == 5


def test_special_files_are_counted_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.jpg"))
        (tmp_path / "gone.jpg").symlink_to("nowhere")
        (tmp_path / "round.jpg").symlink_to("round.jpg")
        (tmp_path / ".hidden").mkdir()
        found, left_out = tree(tmp_path)
    assert found == {"": []}
    assert left_out == {walk.SPECIAL: 2, walk.DANGLING: 2, walk.HIDDEN: 1}


def test_unreadable_folder_is_counted(tmp_path, monkeypatch):
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found, left_out = tree(tmp_path)
    assert set(found) == {"", "open"}
    assert left_out == {walk.UNREADABLE: 1}
    with pytest.raises(UserError, match="shut cannot be read"):
        tree(tmp_path / "shut")


def test_deep_tree_is_listed(tmp_path):
    folder = tmp_path
    for _ in range(400):
        folder = folder / "d"
    folder.mkdir(parents=True)
    assert len(tree(tmp_path)[0]) == 401


def link_all_to_all(root, count):
    for one in range(count):
        (root / f"{one}").mkdir()
        (root / f"{one}" / "file").touch()
        for other in {*range(count)} - {one}:
            (root / f"{one}" / f"to {other}").symlink_to(root / f"{other}")


def test_mutually_linked_folders_are_listed_a_bounded_number_of_times(tmp_path):
    link_all_to_all(tmp_path, 12)
    found, left_out = tree(tmp_path)
    for one in range(12):
        assert found[f"{one}"] == ["file"]
        assert found[f"{one}/to {(one + 1) % 12}"] == ["file"]
    # Each of the 132 links is followed from its own folder, and once from a
    # linked folder.
    assert len(found) <= 1 + 12 + 132 + 132
    assert left_out[walk.AGAIN] > 0


def test_chain_of_nested_links_is_followed(tmp_path):
    for name in "abcd":
        (tmp_path / "disk" / name).mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "disk" / "d" / "1").touch()
    (root / "a").symlink_to(tmp_path / "disk" / "a")
    for one, two in ("ab", "bc", "cd"):
        link = tmp_path / "disk" / one / two
        link.symlink_to(tmp_path / "disk" / two)
    found, left_out = tree(root)
    assert found["a/b/c/d"] == ["1"]
    assert left_out == {}


def test_file_system_error_is_raised(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("a"):
            raise OSError(errno.EIO, "Input/output error", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        tree(tmp_path)
