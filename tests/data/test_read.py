import errno
import os
import subprocess
import sys

from mixer_jax.data import read
from mixer_jax.data.tables import table


def folder(root):
    for name in ("a/1.jpg", "a/2.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"image")
    return root


def test_missing_or_unknown_format_lists_the_formats(capsys):
    for arguments in ([], ["--root=x"]):
        assert read.main(arguments) == 2
        err = capsys.readouterr().err
        assert "Name a format. Known formats:" in err
        assert "\n  shopee " in err
    assert read.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "mixer_jax.data.read FORMAT --root=DIR" in out
    assert "\n  shopee " in out
    assert read.main(["stanford-products", "--root=x"]) == 2
    err = capsys.readouterr().err
    assert "Unknown format 'stanford-products'" in err
    assert "did you mean 'stanford_online_products'" in err


def test_table_is_overwritten_only_on_request(tmp_path, capsys):
    arguments = ["folders", f"--root={folder(tmp_path)}"]
    assert read.main(arguments) == 0
    out = capsys.readouterr().out
    assert out == (
        f"{tmp_path}/table.csv: 2 samples of 1 categories: train 1 queries and "
        "1 documents; left out: none\n"
    )
    (tmp_path / "a/3.jpg").write_bytes(b"image")
    assert read.main(arguments) == 2
    assert "give --overwrite to replace it" in capsys.readouterr().err
    assert len(table.read_table(tmp_path / "table.csv")) == 2
    assert read.main([*arguments, "--overwrite"]) == 0
    assert len(table.read_table(tmp_path / "table.csv")) == 3


def test_table_is_identical_across_processes(tmp_path):
    root = folder(tmp_path)
    assert read.main(["folders", f"--root={root}", "--no-image-check"]) == 0
    out = tmp_path / "other.csv"
    command = [sys.executable, "-m", "mixer_jax.data.read", "folders"]
    subprocess.run(
        [*command, f"--root={root}", f"--out={out}"],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert out.read_bytes() == (tmp_path / "table.csv").read_bytes()


def test_help_into_a_closed_pipe_exits_quietly():
    words = [sys.executable, "-m", "mixer_jax.data.read", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        ended = subprocess.run(words, stdout=output, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_file_system_error_leaves_no_table(tmp_path, monkeypatch, capsys):
    root, look = folder(tmp_path), os.stat

    def fail(path, **options):
        if str(path).endswith("2.jpg"):
            raise OSError(errno.EIO, "Input/output error", path)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", fail)
    assert read.main(["folders", f"--root={root}"]) == 1
    message = f"error: {root}/a/2.jpg: Input/output error."
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert not (root / "table.csv").exists()
