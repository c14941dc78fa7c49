"""Local folders and hub names as values of a config's `pretrained`."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mixer_jax.models import factory
from mixer_jax.models.encoders import bert, registry, resnet
from mixer_jax.models.weights import originals, torch_pickle
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib

RESNET = resnet.ResNetConfig(
    blocks=(1, 1), widths=(8, 12), stem=4, mean=(120.0,) * 3, std=(60.0,) * 3
)
BERT = bert.BertConfig(
    width=8, layers=1, heads=2, hidden=16, vocabulary=30_522, positions=16
)


def random_variables(part, name, *inputs):
    encoder = factory.make_encoder(part, name)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype), shapes
    )


def images():
    return np.zeros((1, 32, 32, 3), np.uint8)


def describe(kind, config):
    return f"{kind} {json.dumps(config.__dict__)}"


@pytest.fixture
def folder(tmp_path):
    """A ResNet in the format of its original."""
    name = describe("resnet", RESNET)
    variables = random_variables("image_encoder", name, images())
    folder = tmp_path / "resnet"
    folder.mkdir()
    family = registry.IMAGE_FAMILIES["resnet"]
    originals.save(folder, family, RESNET, variables)
    return folder


@pytest.fixture
def text_folder(tmp_path):
    name = describe("bert", BERT)
    tokens = np.zeros((1, 4), np.int32)
    variables = random_variables("text_encoder", name, tokens, tokens == 0)
    folder = tmp_path / "bert"
    folder.mkdir()
    originals.save(folder, registry.TEXT_FAMILIES["bert"], BERT, variables)
    return folder


def resolved(image="", text=""):
    config = config_lib.defaults()
    config.data.image_size = 32
    config.data.text_length = 8
    config.model.dim = config.model.hidden = 8
    config.model.slots = 4
    config.model.image.pretrained = str(image)
    config.model.text.pretrained = str(text)
    if not text:
        config.model.text.name = describe("bert", BERT)
    factory.resolve(config)
    return config


def load(config):
    model = factory.make_model(config.model)
    shapes = jax.eval_shape(
        lambda key: factory.init_variables(model, config, key),
        jax.random.key(0),
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return factory.load_pretrained(zeros, config.model)


def encoder_tensors(variables, keys, part):
    return keys.store(
        {name: tree[part] for name, tree in variables.items() if part in tree}
    )


def check_same(one, other):
    assert set(one) == set(other)
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def test_files_determine_the_encoders(folder, text_folder):
    config = resolved(folder, text_folder)
    image, text = config.model.image.name, config.model.text.name
    assert originals.parse(image, registry.IMAGE_FAMILIES)[1] == RESNET
    assert originals.parse(text, registry.TEXT_FAMILIES)[1] == BERT
    variables = load(config)
    check_same(
        encoder_tensors(variables, resnet.KEYS, "image_encoder"),
        load_file(folder / "model.safetensors"),
    )
    check_same(
        encoder_tensors(variables, bert.KEYS, "text_encoder"),
        load_file(text_folder / "model.safetensors"),
    )


def test_tokenizer_comes_from_the_text_encoder(text_folder):
    assert resolved().data.tokenizer == "minilm"
    assert resolved(text=text_folder).data.tokenizer == str(text_folder)
    config = config_lib.defaults()
    config.data.tokenizer = "somewhere"
    config.model.text.pretrained = str(text_folder)
    factory.resolve(config)
    assert config.data.tokenizer == "somewhere"


def test_mean_without_deviation_is_ignored(folder):
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1]}')
    name = resolved(folder).model.image.name
    _, sizes = originals.parse(name, registry.IMAGE_FAMILIES)
    assert sizes.mean == resnet.ResNetConfig().mean


def test_index_without_names_raises_an_error(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="is missing from the file"):
        load(resolved(folder))


def test_config_round_trips_through_json(folder):
    config = resolved(folder)
    saved = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert saved.model.image.name == config.model.image.name
    factory.make_model(saved.model)


def test_hub_names_are_found_in_the_cache(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = tmp_path / "hub" / "models--some--resnet"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    shutil.copytree(folder, kept / "snapshots" / "abc")
    config = resolved("some/resnet")
    assert originals.parse(
        config.model.image.name, registry.IMAGE_FAMILIES
    ) == (registry.IMAGE_FAMILIES["resnet"], RESNET)
    with pytest.raises(
        UserError, match="'some/other' is neither a local folder"
    ):
        resolved("some/other")


def test_weights_in_several_files(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {
        "model-1.safetensors": names[::2],
        "model-2.safetensors": names[1::2],
    }
    for part, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / part)
    where = {name: part for part, own in parts.items() for name in own}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    check_same(originals.read(folder), tensors)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors does not exist"):
        originals.read(folder)


def test_norms_of_old_files_are_renamed(text_folder):
    path = text_folder / "model.safetensors"
    tensors = load_file(path)
    old = {
        re.sub("LayerNorm.weight$", "LayerNorm.gamma", name): tensor
        for name, tensor in tensors.items()
    }
    save_file(
        {
            re.sub("LayerNorm.bias$", "LayerNorm.beta", n): t
            for n, t in old.items()
        },
        path,
    )
    check_same(originals.read(text_folder), tensors)


def test_weights_pickled_by_torch_are_read(folder, monkeypatch):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setattr(torch_pickle, "read", lambda path: tensors)
    check_same(originals.read(folder), tensors)


def test_misfits_are_listed_with_similar_names(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    stem = "embedder.embedder.convolution.weight"
    tensors["embedder.embedder.conv.weight"] = tensors.pop(stem)
    norm = "embedder.embedder.normalization.bias"
    tensors[norm] = tensors[norm][:2]
    save_file(tensors, path)
    with pytest.raises(UserError, match="do not fit the model") as caught:
        load(resolved(folder))
    assert f"{stem} is missing from the file (it has embedder" in str(
        caught.value
    )
    for message in (
        f"{norm} has shape (2,) in the file and (4,) in the model",
        "embedder.embedder.conv.weight is not in the model",
    ):
        assert message in str(caught.value)


def test_broken_folders_raise_an_error(folder, tmp_path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        originals.read(folder)
    path.unlink()
    with pytest.raises(
        UserError, match=r"contains no weights; it needs model\.saf"
    ):
        originals.read(folder)
    config = json.loads((folder / "config.json").read_text())
    for change, expected in (
        ({"model_type": "gpt2"}, "model_type 'gpt2'; supported: .*resnet"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=expected):
            resolved(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="it is not a JSON object"):
        resolved(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resolved(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resolved(tmp_path / "empty")


@pytest.mark.parametrize("name", ["lstm {}", "resnet {", 'resnet {"width": 1}'])
def test_malformed_encoder_names_raise_an_error(name):
    with pytest.raises(
        UserError, match="is not a family followed by its sizes"
    ):
        factory.make_encoder("image_encoder", name)
