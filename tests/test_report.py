"""The report command with a run of the color model and with a shop."""

import re

import pytest

from mixer_jax import evaluate, report


def test_run_report_is_written(color_run, capsys):
    assert evaluate.main([f"--workdir={color_run}"]) == 0
    assert report.main([f"--workdir={color_run}"]) == 0
    page = (color_run / "report" / "index.html").read_text()
    assert "Wrote" in capsys.readouterr().out
    assert "<b>100.0</b>" in page
    assert "red paint" in page


def test_category_report_is_written(own_shop, capsys):
    arguments = [f"--categories={own_shop}", f"--out={own_shop}/a.html"]
    assert report.main([*arguments, f"--log={own_shop}/log"]) == 0
    assert "a.html" in capsys.readouterr().out
    assert "category report" in (own_shop / "a.html").read_text()
    assert report.main([*arguments, f"--log={own_shop}/data"]) == 2
    assert capsys.readouterr().err.startswith("error: The click log")


def test_run_and_categories_are_separate_reports(capsys):
    for arguments in (
        [],
        ["--workdir=a", "--categories=b"],
        ["--workdir=a", "--log=b"],
    ):
        with pytest.raises(SystemExit) as ended:
            report.main(arguments)
        assert ended.value.code == 2


def test_invalid_arguments_are_rejected(tmp_path, capsys):
    assert report.main([f"--workdir={tmp_path / 'no'}"]) == 2
    assert "no run" in capsys.readouterr().err
    assert report.main([f"--workdir={tmp_path}"]) == 2
    assert "nothing to report" in capsys.readouterr().err


def test_suggested_remedy_works(color_run, colors, capsys):
    root, _ = colors
    (root / "red_document_forward.png").write_bytes(b"nothing")
    arguments = [f"--workdir={color_run}"]
    assert report.main(arguments) == 2
    error = capsys.readouterr().err
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert report.main([*arguments, f"--max-skipped={remedy[1]}"]) == 0
