import pytest

from mixer_jax.training.checkpoint import checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "step" / "part").mkdir(parents=True)
    (tmp_path / "step" / "a").write_bytes(b"alpha")
    (tmp_path / "step" / "part" / "b").write_bytes(b"beta" * 1000)
    return tmp_path / "step"


def test_intact_folder_has_no_differences(folder):
    checksums.write(folder)
    assert checksums.check(folder) == ""


def test_folder_without_checksums_is_not_compared(folder):
    assert checksums.check(folder) == ""


def test_check_describes_the_difference(folder):
    checksums.write(folder)
    path = folder / "part" / "b"
    path.write_bytes(b"beta" * 999 + b"bety")
    assert checksums.check(folder) == "part/b differs from its checksum"
    path.write_bytes(b"beta")
    assert checksums.check(folder) == "part/b has 4 of 4000 bytes"
    path.unlink()
    assert checksums.check(folder) == "part/b is missing"
    (folder / checksums.FILE).write_text("{")
    assert checksums.FILE in checksums.check(folder)


def test_checksums_are_written_once_the_folder_exists(folder):
    checks = checksums.BackgroundChecks()
    hidden = folder.rename(folder.with_name("step.tmp"))
    checks.begin(folder)
    assert not (hidden / checksums.FILE).exists()
    hidden.rename(folder)
    checks.finish()
    assert (folder / checksums.FILE).exists()


def test_finish_does_not_wait_for_a_missing_folder(folder):
    checks = checksums.BackgroundChecks()
    checks.begin(folder.with_name("other"))
    checks.finish()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "3",
        '{"a": 3}',
        '{"a": [1]}',
        '{"a": [1e999, 2]}',
        '{"/a": [1, 2]}',
        '{"../a": [1, 2]}',
        '{"a\\u0000b": [1, 2]}',
        '{"\\ud800": [1, 2]}',
        "[" * 9**6,
    ],
)
def test_malformed_checksums_are_reported(folder, text):
    (folder / checksums.FILE).write_text(text)
    assert checksums.check(folder).startswith(checksums.FILE)


def test_only_the_given_items_are_compared(folder):
    checksums.write(folder)
    (folder / "a").write_bytes(b"alphb")
    assert checksums.check(folder, ["part"]) == ""
    (folder / "part" / "b").write_bytes(b"beta")
    assert checksums.check(folder, ["part"]) == "part/b has 4 of 4000 bytes"
