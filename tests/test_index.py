"""The index command with a run of the color model."""

import re

import pandas as pd
import pymilvus  # noqa: F401  (binds a log handler to the first sys.stderr)
import pytest

from mixer_jax import index
from mixer_jax.retrieval import calibration
from mixer_jax.service.stores.local import LocalStore


@pytest.fixture
def build(color_run, colors, tmp_path):
    """Returns the arguments that build an index in `tmp_path / "index"`."""
    return [
        "build",
        f"--workdir={color_run}",
        f"--table={colors[0] / 'colors.csv'}",
        f"--out={tmp_path / 'index'}",
        "--batch-size=8",
    ]


@pytest.fixture
def at(tmp_path):
    return f"--index={tmp_path / 'index'}"


def test_table_is_indexed(build, tmp_path, capsys):
    assert index.main(build) == 0
    output = capsys.readouterr().out
    assert "index of 12 items (vectors with 3 elements) to " in output
    assert index.main([*build, "--split=train"]) == 0
    with LocalStore.open(tmp_path / "index") as store:
        assert store.count() == 4


def test_every_form_works(build, at, colors, tmp_path, capsys):
    root, _ = colors
    assert index.main([*build, "--storage=f16", "--thumbnails=8"]) == 0
    (root / "red_document_forward.png").write_bytes(
        (root / "blue_document_forward.png").read_bytes()
    )
    capsys.readouterr()
    assert index.main(["add", at, build[2]]) == 0
    output = capsys.readouterr().out
    assert "Added or changed 1 row; 11 were unchanged" in output
    ids = tmp_path / "ids.txt"
    ids.write_text("gray_document_forward\nnone\n")
    given = ["--id=red_document_reverse", "--id=no", f"--ids={ids}"]
    assert index.main(["delete", at, *given]) == 0
    assert "Deleted 2 items of" in (output := capsys.readouterr().out)
    assert "index; it has no item for 2 other IDs\n" in output
    assert index.main(["info", at]) == 0
    output = capsys.readouterr().out
    assert re.search(r"items: +10\n", output)
    assert re.search(r"stored as: +f16, cosines off by at most 0", output)
    assert index.main(["rebuild", at, build[1], "--storage=f32"]) == 0
    assert "Embedded 10 items of" in capsys.readouterr().out
    out = tmp_path / "all.parquet"
    assert index.main(["export", at, f"--out={out}"]) == 0
    assert "Wrote 10 rows to" in capsys.readouterr().out
    assert len(pd.read_parquet(out)) == 10


def test_every_form_works_in_milvus(build, colors, tmp_path, capsys):
    root, _ = colors
    at = f"--index={tmp_path / 'new' / 'index.db'}#colors"
    *given, _, size = build
    assert index.main([*given, f"--out={at[8:]}", size]) == 0
    output = capsys.readouterr().out
    assert f"index of 12 items (vectors with 3 elements) to {at[8:]}" in output
    assert "Recall against exact search: recall@10 1.000" in output
    (root / "red_document_forward.png").write_bytes(
        (root / "blue_document_forward.png").read_bytes()
    )
    assert index.main(["add", at, build[2]]) == 0
    output = capsys.readouterr().out
    assert "Added or changed 1 row; 11 were unchanged" in output
    given = ["--id=red_document_reverse", "--id=no"]
    assert index.main(["delete", at, *given]) == 0
    assert "it has no item for 1 other ID\n" in capsys.readouterr().out
    assert index.main(["rebuild", at, build[1], "--index-kind=FLAT"]) == 0
    assert "Embedded 11 items of" in capsys.readouterr().out
    assert index.main(["info", at]) == 0
    output = capsys.readouterr().out
    assert re.search(r"items: +11\n", output)
    assert re.search(r"stored as: +f32, FLAT index, Strong consist", output)
    out = tmp_path / "all.parquet"
    assert index.main(["export", at, f"--out={out}"]) == 0
    assert "Wrote 11 rows to" in capsys.readouterr().out


def test_an_index_is_calibrated(build, at, capsys, monkeypatch):
    assert index.main(build) == 0
    assert index.main(["calibrate", at, build[2]]) == 2
    assert "needs at least 100 queries" in capsys.readouterr().err
    monkeypatch.setattr(calibration, "MIN_QUERIES", 4)
    monkeypatch.setattr(calibration, "FOLDS", 2)
    assert index.main(["calibrate", at, build[2], "--split=test"]) == 0
    found = " on 8 queries of a catalog of 12 documents\n"
    output = capsys.readouterr().out
    assert f"{found}warning: the probabilities of nearest" in output
    assert index.main(["info", at]) == 0
    assert found in capsys.readouterr().out


def test_invalid_arguments_are_rejected(build, at, colors, tmp_path, capsys):
    form, run, table, out, _ = build
    for arguments, message in (
        ([form, run, table, f"--out={colors[0]}"], "has contents other than"),
        ([form, run, "--table=no.csv", out], "no.csv"),
        ([form, f"--workdir={tmp_path / 'no'}", table, out], "no trained sta"),
        ([*build, "--split=no"], "'no'"),
        ([*build, "--fields=a:b"], "cannot have the kind 'b'"),
        ([form, table, out], "--workdir=FOLDER"),
        ([form, run, out], "--table=FILE"),
        (["bild"], "did you mean 'build'? Its forms are build, add"),
        ([], "There is no form ''"),
        (["info", at], "no index in"),
        (["info", "--index=no.db"], "no index at no.db"),
        (["info", "--index=http://me:secret@h"], "must not have a password"),
        ([*build, "--index-kind=FLAT"], "is for an index in Milvus"),
        ([form, run, table, "--out=x.db", "--storage=f16"], "stored as f16"),
        ([form, run, table, "--out=x.db", "--index-kind=DISKANN"], "Lite has"),
        (["delete", at], "--id=ID"),
        (["delete", at, f"--ids={tmp_path}"], "file of IDs"),
        (["export", at, "--out=x.csv"], "does not end in .parquet"),
    ):
        assert index.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "index").exists()


def test_help_lists_the_forms(capsys):
    assert index.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "stage3 \\\n        --table=" in shown
    for line in ("rebuild    embeds the items", "roll-back  returns to the"):
        assert f"\n  {line}" in shown


def test_suggested_remedy_works(build, colors, capsys):
    (colors[0] / "red_document_forward.png").write_bytes(b"nothing")
    assert index.main(build) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert index.main([*build, f"--max-skipped={remedy[1]}"]) == 0
