"""The stages of a curriculum run in order."""

import io

import jax
import pytest
import rich.console

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import curriculum, plan
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.config import defaults as config_lib


def test_each_stage_starts_from_the_previous_one(tmp_path):
    config = config_lib.curriculum(
        stage1=config_lib.defaults(),
        stage2=config_lib.defaults(),
        stage3=config_lib.defaults(),
    )
    config.stage3.init_from = "elsewhere"
    stages = list(curriculum.stages(config, tmp_path))
    assert [stage.name for stage, _ in stages] == ["stage1", "stage2", "stage3"]
    assert [folder.name for _, folder in stages] == list(config.curriculum)
    assert [stage.init_from for stage, _ in stages] == [
        "",
        str(tmp_path / "stage1"),
        "elsewhere",
    ]


def test_single_stage_uses_the_workdir_itself(tmp_path):
    config = config_lib.defaults()
    ((stage, folder),) = curriculum.stages(config, tmp_path)
    assert folder == tmp_path
    # The given config is unchanged; in the copy, only the tokenizer is set.
    assert config == config_lib.defaults()
    config.data.tokenizer = "minilm"
    assert stage == config


@pytest.mark.slow
def test_finished_stages_are_skipped(toy, tiny_config, tmp_path):
    first = tiny_config.copy_and_resolve_references()
    first.steps = 3
    second = first.copy_and_resolve_references()
    second.head.name = "knn"
    second.proxies.init = "imprint"
    second.model.image.batch_norm = "frozen"
    second.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    config = config_lib.curriculum(stage1=first, stage2=second)
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    output = io.StringIO()
    console = rich.console.Console(file=output, width=200)
    curriculum.run(config, tmp_path, mesh, console)
    assert workdir_lib.latest_step(tmp_path / "stage1") == 3
    assert workdir_lib.latest_step(tmp_path / "stage2") == 3
    assert "already finished" not in output.getvalue()
    curriculum.run(config, tmp_path, mesh, console)
    assert output.getvalue().count("already finished") == 2


@pytest.mark.parametrize("command", [curriculum.run, plan.show])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.name", "foo", "Stage stage2: head.name is 'foo'"),
        ("sharding", ("x",), "as --config.stage2.sharding="),
        ("sharding", (("gpt", "fsdp"),), "Stage stage2: "),
        ("head.chunk", 0, "Stage stage2: config.head.chunk is 0"),
        ("optimizer.parts", (("gpt", 0.1),), "Stage stage2: "),
        ("data.text_length", 600, "Stage stage2: data.text_length is 600"),
        ("model.dim", 24, "(24,) expected"),
        ("head.subcenters", 2, "proxies: (0, 16) saved, (0, 32) expected"),
    ],
)
def test_later_stages_are_checked_before_training(
    toy, tiny_config, tmp_path, monkeypatch, command, key, value, message
):
    monkeypatch.setattr(curriculum.loop, "train", None)
    monkeypatch.setattr(plan.setup, "make", None)
    config = config_lib.curriculum(
        stage1=tiny_config, stage2=tiny_config.copy_and_resolve_references()
    )
    config.stage2.update_from_flattened_dict({key: value})
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    with pytest.raises(UserError) as caught:
        command(config, tmp_path / "run", mesh)
    assert message in str(caught.value)


def test_errors_in_later_stages_stop_the_run_before_training(
    toy, tiny_config, tmp_path
):
    first, second = (tiny_config.copy_and_resolve_references() for _ in "12")
    config = config_lib.curriculum(stage1=first, stage2=second)
    for key, value, message in (
        ("optimizer.learning_rate", -1.0, "stage2.*learning_rate is -1"),
        ("data.table", str(tmp_path / "no.csv"), "stage2.*no sample table"),
    ):
        wrong = config.copy_and_resolve_references()
        wrong.stage2.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=message):
            curriculum.run(wrong, tmp_path / "run")
        assert workdir_lib.latest_step(tmp_path / "run" / "stage1") is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.fusion", "sum", "Stage stage2: There is no fusion named 'sum'"),
        ("model.image.name", "vgg", "Stage stage2: There is no image encoder"),
    ],
)
def test_unknown_parts_of_a_later_stage_raise_an_error(
    tiny_config, tmp_path, key, value, message
):
    second = tiny_config.copy_and_resolve_references()
    second.update_from_flattened_dict({key: value})
    config = config_lib.curriculum(stage1=tiny_config, stage2=second)
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    with pytest.raises(UserError, match=message):
        curriculum.check_values(config, tmp_path / "run", mesh)
