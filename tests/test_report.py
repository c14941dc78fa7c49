"""The command on a run of a small model that sees colours."""

from mixer_jax import evaluate, report


def test_a_run_is_reported(colour_run, capsys):
    assert evaluate.main([f"--workdir={colour_run}"]) == 0
    assert report.main([f"--run={colour_run}"]) == 0
    page = (colour_run / "report" / "index.html").read_text()
    assert "Wrote" in capsys.readouterr().out
    assert "<b>100.0</b>" in page
    assert "red paint" in page


def test_what_is_wrong_is_said(tmp_path, capsys):
    assert report.main([f"--run={tmp_path / 'no'}"]) == 2
    assert "no run" in capsys.readouterr().err
    assert report.main([f"--run={tmp_path}"]) == 2
    assert "nothing to report" in capsys.readouterr().err
