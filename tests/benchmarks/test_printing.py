import argparse
import json

import pytest
import rich.table

from benchmarks import printing


def test_table_machine_and_rows(tmp_path, capsys):
    table = rich.table.Table("a heading " + "of many words " * 6)
    rows = [{"machine": "two cores", "versions": {"jax": "1.2"}, "ratio": 0.5}]
    out = tmp_path / "rows.json"
    printing.show(table, rows, 120, str(out))
    printed = capsys.readouterr().out
    assert "a heading " + "of many words " * 5 in printed  # on one line
    assert "two cores; jax 1.2\n" in printed
    assert f"Wrote {out}" in printed
    assert json.loads(out.read_text()) == rows


def test_a_missing_folder_is_created(tmp_path):
    path = tmp_path / "new" / "deep" / "rows.json"
    printing.write([{"ratio": 0.5}], str(path))
    assert json.loads(path.read_text()) == [{"ratio": 0.5}]


def test_no_path_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"machine": "two cores", "versions": {}}]
    printing.show(rich.table.Table("ratio"), rows, 40, "")
    assert not list(tmp_path.iterdir())
    assert "Wrote" not in capsys.readouterr().out


def test_the_file_is_checked_before_measuring(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    printing.add_json(parser)
    assert parser.parse_args([]).json == ""
    path = tmp_path / "new" / "rows.json"
    assert parser.parse_args([f"--json={path}"]).json == str(path)
    assert not path.parent.exists()
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([f"--json={tmp_path}"])
    assert "The rows cannot be written to" in capsys.readouterr().err
