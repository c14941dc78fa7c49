"""The index command with a run of the color model."""

import re

from mixer_jax import index
from mixer_jax.retrieval import index as index_lib


def test_table_is_indexed(color_run, colors, tmp_path, capsys):
    arguments = [
        f"--workdir={color_run}",
        f"--table={colors[0] / 'colors.csv'}",
        f"--out={tmp_path / 'index'}",
    ]
    assert index.main([*arguments, "--batch-size=8"]) == 0
    output = capsys.readouterr().out
    assert "index of 12 documents (vectors with 3 elements) to " in output
    assert index.main([*arguments, "--split=train"]) == 0
    assert len(index_lib.load(tmp_path / "index").documents) == 4


def test_invalid_arguments_are_rejected(color_run, colors, tmp_path, capsys):
    run = f"--workdir={color_run}"
    table = f"--table={colors[0] / 'colors.csv'}"
    out = f"--out={tmp_path / 'index'}"
    for arguments, message in (
        ([run, table, f"--out={colors[0]}"], "has contents other than"),
        ([run, "--table=no.csv", out], "no.csv"),
        ([f"--workdir={tmp_path / 'no'}", table, out], "no trained stage"),
        ([run, table, out, "--split=no"], "'no'"),
    ):
        assert index.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_suggested_remedy_works(color_run, colors, tmp_path, capsys):
    root, _ = colors
    (root / "red_document_forward.png").write_bytes(b"nothing")
    arguments = [
        f"--workdir={color_run}",
        f"--table={root / 'colors.csv'}",
        f"--out={tmp_path / 'index'}",
    ]
    assert index.main(arguments) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert index.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0
