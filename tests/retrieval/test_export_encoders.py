"""Export of encoders in the file layout of their originals."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import export
from mixer_jax.models import factory
from mixer_jax.models.encoders import bert, registry, resnet
from mixer_jax.models.weights import originals
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import workdir
from mixer_jax.training.checkpoint.checkpoints import Checkpoints
from mixer_jax.training.config import defaults as config_lib

SIZES = {
    "image": resnet.ResNetConfig(blocks=(1, 1), widths=(8, 12), stem=4),
    "text": bert.BertConfig(
        width=8, layers=1, heads=2, hidden=16, vocabulary=40
    ),
}


@pytest.fixture
def save_run(tmp_path):
    """Returns a function that saves a run of random encoders.

    It returns the workdir and the variables.
    """

    def save(image="resnet"):
        config = config_lib.defaults()
        config.data.image_size = 32
        config.data.text_length = 4
        config.model.dim = config.model.hidden = 8
        config.model.slots = 4
        sizes = {part: json.dumps(x.__dict__) for part, x in SIZES.items()}
        config.model.image.name = f"resnet {sizes['image']}"
        config.model.text.name = f"bert {sizes['text']}"
        if image != "resnet":
            config.model.image.name = image
        model = factory.make_model(config.model)
        init = functools.partial(factory.init_variables, model, config)
        rng = np.random.default_rng(0)
        variables = jax.tree.map(
            lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype),
            jax.eval_shape(init, jax.random.key(0)),
        )
        state = state_lib.TrainState(
            step=jnp.int32(4),
            skipped=jnp.int32(0),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state={},
            proxies=jnp.zeros((8, 8)),
            proxy_state={},
            graph=None,
        )
        folder = tmp_path / "run"
        workdir.prepare(folder, config, ["a", "b"])
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(4, jax.tree.map(jnp.asarray, state), {})
        return folder, variables

    return save


def run(folder, out, *more):
    arguments = [f"--workdir={folder}", f"--out={out}", *more]
    return export.main([*arguments, "--to=huggingface"])


def test_exported_encoders_can_be_loaded(save_run, tmp_path, capsys):
    folder, variables = save_run()
    out = tmp_path / "out"
    assert run(folder, out) == 0
    assert "image_encoder and text_encoder of step 4" in capsys.readouterr().out
    assert json.loads((out / "encoders.json").read_text())["step"] == 4
    for part, families in registry.FAMILIES.items():
        own = {k: t[part] for k, t in variables.items() if part in t}
        name = originals.describe(str(out / part), families)
        _, config = originals.parse(name, families)
        assert config == SIZES[part.removesuffix("_encoder")]
        zeros = jax.tree.map(np.zeros_like, own)
        loaded = originals.load(str(out / part), families, zeros)
        jax.tree.map(np.testing.assert_array_equal, loaded, own)
    # A second export replaces the first.
    assert run(folder, out) == 0


def test_transformers_loads_the_exported_encoders(save_run, tmp_path):
    pytest.importorskip("torch")
    import transformers

    folder, variables = save_run()
    assert run(folder, tmp_path / "out") == 0
    for part, layer in (
        ("image_encoder", "embedder.embedder.normalization.running_var"),
        ("text_encoder", "embeddings.word_embeddings.weight"),
    ):
        path = tmp_path / "out" / part
        model = transformers.AutoModel.from_pretrained(path)
        family = registry.FAMILIES[part]["resnet" if "im" in part else "bert"]
        own = {k: t[part] for k, t in variables.items() if part in t}
        np.testing.assert_array_equal(
            model.state_dict()[layer].numpy(), family.keys.store(own)[layer]
        )


def test_an_encoder_missing_in_transformers_is_reported(
    save_run, tmp_path, capsys
):
    folder, _ = save_run(image="efficientnet-lite0")
    assert run(folder, tmp_path / "out") == 0
    message = capsys.readouterr().out
    assert "transformers has no EfficientNet (image_encoder)" in message
    assert not (tmp_path / "out" / "image_encoder").exists()


def test_invalid_arguments_raise_an_error(save_run, tmp_path, capsys):
    folder, _ = save_run()
    assert run(folder, tmp_path / "out", "--unit") == 2
    assert "--unit needs --to=proxies" in capsys.readouterr().err
    assert run(folder, folder) == 2
    assert "has contents other than" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_get_the_permissions_of_the_umask(save_run, tmp_path, umask):
    folder, _ = save_run()
    before = os.umask(umask)
    try:
        assert run(folder, tmp_path / "out") == 0
    finally:
        os.umask(before)
    written = [path for path in tmp_path.glob("out/**/*") if path.is_file()]
    assert len(written) == 6
    modes = {path.stat().st_mode & 0o777 for path in written}
    assert modes == {0o666 & ~umask}
