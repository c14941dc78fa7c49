import threading

import pytest

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import LostError
from mixer_jax.runtime.ownership import guards


def lose():
    raise LostError("taken over")


def test_guarded_files_are_not_replaced_after_a_loss(tmp_path):
    folder = tmp_path.resolve()
    (folder / "a").write_text("theirs")
    with guards.guarded(folder, lose):
        with pytest.raises(LostError, match="taken over"):
            files.write_text(folder / "a", "ours")
        assert (folder / "a").read_text() == "theirs"
        assert [path.name for path in folder.iterdir()] == ["a"]
    files.write_text(folder / "a", "ours")
    assert (folder / "a").read_text() == "ours"


def test_guard_covers_only_its_path(tmp_path):
    folder = tmp_path.resolve()
    with guards.guarded(folder / "a", lose):
        guards.check(folder / "b")
        guards.check(folder / "ab")
        for name in ("a", "a/b"):
            with pytest.raises(LostError):
                guards.check(folder / name)


def test_readers_share_the_lock_and_writers_do_not(tmp_path):
    written = threading.Event()

    def write():
        with guards.locked(tmp_path):
            written.set()

    with guards.steady(tmp_path), guards.steady(tmp_path):
        writer = threading.Thread(target=write)
        writer.start()
        assert not written.wait(0.2)
    writer.join()
    assert written.is_set()


def test_missing_folder_is_not_locked(tmp_path):
    with guards.locked(tmp_path / "missing"):
        pass
