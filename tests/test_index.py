"""The command on a run of a small model that sees colours."""

import re

from mixer_jax import index
from mixer_jax.retrieval import index as index_lib


def test_a_table_is_indexed(colour_run, colours, tmp_path, capsys):
    arguments = [
        f"--workdir={colour_run}",
        f"--table={colours[0] / 'colours.csv'}",
        f"--out={tmp_path / 'index'}",
    ]
    assert index.main([*arguments, "--batch-size=8"]) == 0
    assert "index of 12 documents, 3 numbers" in capsys.readouterr().out
    assert index.main([*arguments, "--split=train"]) == 0
    assert len(index_lib.load(tmp_path / "index").documents) == 4


def test_what_is_wrong_is_said(colour_run, colours, tmp_path, capsys):
    run = f"--workdir={colour_run}"
    table = f"--table={colours[0] / 'colours.csv'}"
    out = f"--out={tmp_path / 'index'}"
    for arguments, said in (
        ([run, table, f"--out={colours[0]}"], "has contents other than"),
        ([run, "--table=no.csv", out], "no.csv"),
        ([f"--workdir={tmp_path / 'no'}", table, out], "no trained stage"),
        ([run, table, out, "--split=no"], "'no'"),
    ):
        assert index.main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_the_remedy_that_is_said_works(colour_run, colours, tmp_path, capsys):
    root, _ = colours
    (root / "red_document_forward.png").write_bytes(b"nothing")
    arguments = [
        f"--workdir={colour_run}",
        f"--table={root / 'colours.csv'}",
        f"--out={tmp_path / 'index'}",
    ]
    assert index.main(arguments) == 2
    said = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", said)
    assert index.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0
