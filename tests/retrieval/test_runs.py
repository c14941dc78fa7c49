"""Finding the models of a run."""

import re

import pytest

from mixer_jax.retrieval import runs
from mixer_jax.runtime.errors import UserError


def test_models_and_stages_of_a_run_are_found(color_run):
    one, two = color_run / "stage1", color_run / "stage2"
    assert runs.find_stages(color_run) == [one, two]
    assert runs.find_stages(color_run, ["stage2"]) == [two]
    assert runs.find_stages(two) == [two]
    found = runs.find_models(color_run, ["stage2"], [f"image only={color_run}"])
    assert found == [runs.Model("mixer", two), runs.Model("image only", two)]


def test_a_model_given_twice_raises_an_error(color_run):
    one, two = color_run / "stage1", color_run / "stage2"
    assert runs.find_stages(color_run, ["stage1", "stage1"]) == [one]
    assert len(runs.find_models(one, [], [f"a={one}", f"a={two}"])) == 3
    for others in ([f"a={one}", f"a={one}"], [f"mixer={one}"]):
        with pytest.raises(UserError, match="given twice"):
            runs.find_models(one, [], others)


def test_another_stage_of_a_single_stage_raises_an_error(color_run):
    one = color_run / "stage1"
    assert runs.find_stages(one, ["stage1"]) == [one]
    with pytest.raises(UserError, match="leave out --stage"):
        runs.find_stages(one, ["stage2"])


def test_unknown_names_raise_an_error(color_run, tmp_path):
    with pytest.raises(UserError, match="'stage3'; it has stage1, stage2"):
        runs.find_stages(color_run, ["stage3"])
    with pytest.raises(UserError, match="NAME=WORKDIR"):
        runs.find_models(color_run, [], ["image only"])
    with pytest.raises(UserError, match="no trained stage"):
        runs.find_models(color_run, [], [f"x={tmp_path / 'no'}"])
    with pytest.raises(UserError, match="no trained stage"):
        runs.find_models(tmp_path / "no")


def test_an_index_is_not_a_model(tmp_path):
    (tmp_path / "index.json").touch()
    with pytest.raises(UserError, match=r"open it with mixer\S+open_index\.$"):
        runs.find_models(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    message = rf"use its model, {re.escape(str(tmp_path))}/model\.$"
    with pytest.raises(UserError, match=message):
        runs.find_models(tmp_path)
