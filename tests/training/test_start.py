"""How a stage starts."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training import start
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.start import Start


@pytest.mark.parametrize(
    ("step", "changes", "wanted", "described"),
    [
        (
            4,
            {"init_from": "before"},
            Start.FINISHED,
            "its checkpoint of step 4",
        ),
        (3, {"init_from": "before"}, Start.RESUMED, "its checkpoint of step 3"),
        (
            None,
            {"init_from": "before", "model.image.pretrained": "some"},
            Start.OTHER_STAGE,
            "before",
        ),
        (
            None,
            {"model.image.pretrained": "some"},
            Start.PRETRAINED,
            "pretrained weights",
        ),
        (
            None,
            {"model.text.pretrained": "some"},
            Start.PRETRAINED,
            "pretrained weights",
        ),
        (None, {}, Start.RANDOM, "random weights"),
    ],
)
def test_decide_returns_the_first_start_that_applies(
    tiny_config, tmp_path, monkeypatch, step, changes, wanted, described
):
    tiny_config.steps = 4
    tiny_config.update_from_flattened_dict(changes)
    monkeypatch.setattr(workdir_lib, "latest_step", lambda folder: step)
    found = start.decide(tiny_config, tmp_path)
    assert found is wanted
    assert found.has_checkpoint == (step is not None)
    assert start.describe(tiny_config, tmp_path) == described


def test_missing_previous_stage_raises_an_error(tiny_config, tmp_path):
    tiny_config.name = "stage2"
    tiny_config.init_from = str(tmp_path / "stage1")
    tiny_config.init_command = "python -m mixer_jax.main --config=stage1.py"
    with pytest.raises(UserError) as caught:
        start.check(tiny_config, tmp_path / "stage2")
    message = str(caught.value)
    assert "stage2 starts from" in message
    assert (
        "Run this first:\n  python -m mixer_jax.main --config=stage1.py"
        in message
    )


@pytest.mark.parametrize("there", ["stage1", "stage2"])
def test_checkpoint_of_either_stage_suffices(
    tiny_config, tmp_path, monkeypatch, there
):
    tiny_config.init_from = str(tmp_path / "stage1")
    monkeypatch.setattr(
        workdir_lib,
        "latest_step",
        lambda folder: 3 if str(folder).endswith(there) else None,
    )
    start.check(tiny_config, tmp_path / "stage2")
