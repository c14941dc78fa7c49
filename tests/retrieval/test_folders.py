"""A folder takes another's place, or that one stays as it was."""

import pytest

from mixer_jax.errors import UserError
from mixer_jax.retrieval import folders


def write(folder, text):
    with folders.replacing(folder, "mark", "index") as draft:
        assert not list(draft.iterdir())
        (draft / "mark").write_text(text)
        (draft / text).touch()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_another(tmp_path):
    folder = tmp_path / "new" / "one"
    write(folder, "first")
    assert names(folder) == ["first", "mark"]
    # As if an earlier writing had been killed.
    (folder.parent / ".one.draft").mkdir()
    (folder.parent / ".one.draft" / "half").touch()
    write(folder, "second")
    assert names(folder) == ["mark", "second"]
    assert names(folder.parent) == ["one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_error_leaves_everything_as_it_was(tmp_path, error):
    folder = tmp_path / "one"
    write(folder, "first")

    def write_half():
        with folders.replacing(folder, "mark", "index") as draft:
            (draft / "half").touch()
            raise error

    with pytest.raises(error):
        write_half()
    assert names(folder) == ["first", "mark"]
    assert names(tmp_path) == ["one"]


def test_a_disk_that_is_full_is_said(tmp_path):
    with (
        pytest.raises(UserError, match=r"index cannot be written to .*: No sp"),
        folders.replacing(tmp_path / "one", "mark", "index"),
    ):
        raise OSError(28, "No space left on device")
    assert not names(tmp_path)


def test_other_things_are_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"index is a folder, but .* is a file"):
        write(tmp_path / "file", "first")
    with pytest.raises(UserError, match="other things than an index"):
        write(tmp_path, "first")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "first")
    assert names(tmp_path) == ["empty", "file"]
