"""Invalid stages are rejected before anything is computed."""

import jax
import pytest

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import setup


def make(config, folder, num_devices=2):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    return setup.make(config, folder, mesh)


def test_setup_runs_no_computation(toy, tiny_config, tmp_path):
    run = make(tiny_config, tmp_path)
    leaves = jax.tree.leaves(run.state)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert run.state.proxies.shape == (12, 16)
    assert run.rates["image_encoder/Dense_0/kernel"] == 0.1
    assert list(tmp_path.iterdir()) == []


def test_equal_models_are_traced_once(tiny_config, monkeypatch):
    traced = []
    real = setup.factory.init_variables

    def init(model, config, key):
        traced.append(config.data.image_size)
        return real(model, config, key)

    monkeypatch.setattr(setup.factory, "init_variables", init)
    tiny_config.model.image.name = "resnet18"
    tiny_config.model.fusion = "image_only"
    tiny_config.data.image_size = 32
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    setup.assemble(tiny_config, 12, mesh)
    tiny_config.steps += 1
    params = setup.assemble(tiny_config, 12, mesh).state.params
    assert traced == [32]
    tiny_config.model.dim += 1
    other = setup.assemble(tiny_config, 12, mesh).state.params
    assert traced == [32, 32]
    assert jax.tree.map(jax.numpy.shape, other) != jax.tree.map(
        jax.numpy.shape, params
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer.parts": (("image_encoder", 0.0),)},
            "model.image.batch_norm",
        ),
        ({"optimizer.parts": (("bert", 0.1),)}, "no parameter path matches"),
        ({"data.text_length": 600}, "supports at most 512"),
        ({"data.table": "nowhere.csv"}, "no sample table at nowhere.csv"),
        ({"head.name": "knn", "head.active": 0.1}, "head.active"),
        ({"batch_size": 6}, "multiple of 4"),
    ],
)
def test_invalid_settings_raise_an_error(
    toy, tiny_config, tmp_path, changes, message
):
    tiny_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        make(tiny_config, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonono", "Known: efficientnet-lite0, minilm"),
        ("weights.safetensors", "weights.safetensors does not exist"),
    ],
)
def test_missing_weights_are_rejected_before_data_is_read(
    toy, tiny_config, tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr(setup.inputs, "load", None)
    tiny_config.model.text.pretrained = name
    with pytest.raises(UserError, match=message):
        make(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mismatched_weights_are_rejected_before_writing(
    toy, tiny_config, tmp_path
):
    tiny_config.model.text.pretrained = "efficientnet-lite0"
    with pytest.raises(
        UserError, match=r"efficientnet-lite0.* different encoder"
    ):
        make(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starting_from_a_stage_with_other_shapes_fails(
    toy, tiny_config, tmp_path
):
    before = tiny_config.copy_and_resolve_references()
    before.model.dim = 24
    tiny_config.init_from = "before"
    setup.check_fit(tiny_config, tiny_config)
    with pytest.raises(UserError, match=r"before has different shapes: .*24"):
        setup.check_fit(tiny_config, before)
