"""The command that compares two models."""

import json

from mixer_jax import compare


def test_the_figures_are_written(color_run, colors, tmp_path, capsys):
    given = [
        f"--current={color_run / 'stage1'}",
        f"--workdir={color_run}",
        f"--table={colors[0] / 'colors.csv'}",
        f"--out={tmp_path / 'comparison.json'}",
    ]
    assert compare.main([*given, "--tolerance=0.1"]) == 0
    assert "The new model is: not worse" in capsys.readouterr().out
    figures = json.loads((tmp_path / "comparison.json").read_text())
    assert figures["verdict"] == "not worse"
    assert figures["tolerance"] == 0.1
    assert figures["map"]["current"] == figures["map"]["new"] > 0
    given[0] = f"--current={tmp_path}"
    assert compare.main(given) == 2
    assert "no trained stage" in capsys.readouterr().err
