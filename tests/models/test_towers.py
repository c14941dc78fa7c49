import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixer_jax.models.encoders.bert import Bert, BertConfig
from mixer_jax.models.encoders.layers import ConvNorm
from mixer_jax.models.fusion import FUSIONS
from mixer_jax.models.towers import (
    Mixer,
    align,
    drop_parts,
    in_chunks,
    interleave,
    normalize,
)
from mixer_jax.runtime import mesh as mesh_lib


class TinyEncoder(nn.Module):
    batch_norm: str = "train"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        batch_stats = train and self.batch_norm == "train"
        x = images.astype(jnp.float32) / 128 - 1
        x = ConvNorm(8, 3, 2, activation=nn.relu, dtype=self.dtype)(
            x, batch_stats
        )
        x = ConvNorm(8, 3, 2, depthwise=True, dtype=self.dtype)(x, batch_stats)
        return x.reshape(x.shape[0], -1, x.shape[-1])


BERT = BertConfig(
    width=8, layers=1, heads=2, hidden=16, vocabulary=50, positions=8
)


def _mixer(fusion="concept_attention", dtype=jnp.float32, **options):
    text = Bert(BERT, dtype=dtype) if FUSIONS[fusion].uses_text else None
    return Mixer(
        TinyEncoder(dtype=dtype),
        text,
        dim=6,
        hidden=10,
        slots=4,
        fusion_name=fusion,
        dtype=dtype,
        **options,
    )


def _batch(rows=8):
    rng = np.random.default_rng(0)

    def images():
        return rng.integers(0, 256, (rows, 8, 8, 3), np.uint8)

    # Four documents in turn: both parts, no text, both parts, no image.
    length = np.tile([5, 0, 3, 4], rows // 4)
    return {
        "query": {"image": images()},
        "document": {
            "image": images(),
            "has_image": np.arange(rows) % 4 != 3,
            "tokens": rng.integers(1, 50, (rows, 5), np.int32),
            "token_mask": np.arange(5)[None] < length[:, None],
        },
    }


def _init(model, batch):
    # Without jit, most of the time would be spent compiling single ops.
    return jax.jit(model.init)(jax.random.key(0), batch)


def _apply(model, variables, *arguments, method=None):
    apply = functools.partial(model.apply, method=method)
    return jax.jit(apply)(variables, *arguments)


def _gradients(model):
    """Returns a jitted function for gradients, outputs and statistics."""

    @jax.jit
    def step(variables, batch):
        def loss(params):
            out, updated = model.apply(
                {**variables, "params": params},
                batch,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            weight = jnp.arange(1.0, 7.0)[None]
            total = jnp.sum((out["query"] - 2 * out["document"]) * weight)
            return total, (out, updated)

        return jax.grad(loss, has_aux=True)(variables["params"])

    return step


def _largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "fusion",
    [
        pytest.param(
            fusion,
            marks=SLOW
            if fusion not in ("concept_attention", "image_only", "text_only")
            else (),
        )
        for fusion in sorted(FUSIONS)
    ],
)
def test_joint_and_separate_towers_agree(fusion):
    model, batch = _mixer(fusion), _batch()
    variables = _init(model, batch)
    out = _apply(model, variables, batch)
    assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
        "query": ((8, 6), jnp.float32),
        "document": ((8, 6), jnp.float32),
        "concept": ((8, 6), jnp.float32),
        "slots": ((8, 4), jnp.float32),
    }
    # Without what its fusion reads, a document has no embedding.
    document = batch["document"]
    known = document["has_image"] | FUSIONS[fusion].uses_text
    if fusion == "text_only":
        known = document["token_mask"].any(1)
    for role, length in (("query", np.ones(8)), ("document", known)):
        lengths = np.linalg.norm(out[role], axis=1)
        np.testing.assert_allclose(lengths, length, atol=1e-5)
    query = _apply(model, variables, batch["query"], method="encode_query")
    document = _apply(
        model, variables, batch["document"], method="encode_document"
    )
    np.testing.assert_allclose(query, out["query"], atol=1e-5)
    np.testing.assert_allclose(document, out["document"], atol=1e-5)
    if FUSIONS[fusion].uses_text:
        has_text = batch["document"]["token_mask"].any(1)
        np.testing.assert_allclose(out["slots"].sum(1), has_text, atol=1e-5)
        np.testing.assert_array_equal(out["concept"][~has_text], 0)
    else:
        assert "text_encoder" not in variables["params"]


@pytest.mark.parametrize(
    "fusion", ["average", "concept_attention", "image_only"]
)
def test_aligned_towers_start_equal_on_images(fusion):
    model, batch = _mixer(fusion), _batch()
    document = batch["document"]
    document["image"] = batch["query"]["image"]
    document["has_image"] = np.ones(8, bool)
    document["token_mask"] = np.zeros((8, 5), bool)
    variables = _init(model, batch)
    apart = _apply(model, variables, batch)
    assert np.abs(apart["query"] - apart["document"]).max() > 0.1
    variables = {**variables, "params": align(variables["params"])}
    out = _apply(model, variables, batch)
    np.testing.assert_allclose(out["query"], out["document"], atol=1e-5)


def test_cached_features_replace_images_and_texts():
    model, batch = _mixer(), _batch()
    variables = _init(model, batch)
    document = batch["document"]
    cached = {
        "query": {
            "patches": _apply(
                model,
                variables,
                batch["query"]["image"],
                method="encode_images",
            )
        },
        "document": {
            "patches": _apply(
                model, variables, document["image"], method="encode_images"
            ),
            "has_image": document["has_image"],
            "token_mask": document["token_mask"],
            "token_vectors": _apply(
                model,
                variables,
                document["tokens"],
                document["token_mask"],
                method="encode_texts",
            ),
        },
    }
    expected = _apply(model, variables, batch)
    actual = _apply(model, variables, cached)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5)
    embedded = {
        role: {"embedding": expected[role]} for role in ("query", "document")
    }
    given = _apply(model, variables, embedded)
    assert set(given) == {"query", "document"}
    for role, values in given.items():
        np.testing.assert_array_equal(values, expected[role])
        alone = _apply(
            model, variables, embedded[role], method=f"encode_{role}"
        )
        np.testing.assert_array_equal(alone, expected[role])


@pytest.mark.slow
def test_embeddings_depend_only_on_their_own_parameters():
    model, batch = _mixer(), _batch()
    variables = _init(model, batch)

    @jax.jit
    @jax.grad
    def differentiate(params, chosen):
        out = model.apply({**variables, "params": params}, batch)
        weight = jnp.arange(1.0, 7.0)[None]
        return sum(jnp.sum(chosen[r] @ out[r] * weight) for r in chosen)

    def gradient(role, row):
        chosen = {
            name: np.zeros((1, len(x["image"])), np.float32)
            for name, x in batch.items()
        }
        chosen[role][0, row] = 1
        gradients = differentiate(variables["params"], chosen)
        return {name: _largest(tree) for name, tree in gradients.items()}

    query = gradient("query", 0)
    assert {name for name, size in query.items() if size > 0} == {
        "image_encoder",
        "query_layers",
    }
    whole = gradient("document", 0)
    assert {name for name, size in whole.items() if size > 0} == {
        "image_encoder",
        "text_encoder",
        "concept_memory",
        "fusion",
        "document_layers",
    }
    no_text = gradient("document", 1)
    assert no_text["text_encoder"] == no_text["concept_memory"] == 0
    assert no_text["image_encoder"] > 0
    no_image = gradient("document", 3)
    assert no_image["image_encoder"] == 0
    assert no_image["text_encoder"] > 0


def test_drop_parts_never_drops_a_whole_document():
    has_image = np.arange(1000) % 5 != 0
    mask = np.ones((1000, 3), bool)
    mask[:, 2] = False
    mask[1::5] = False  # only an image
    images, masks = drop_parts(has_image, mask, 0.5, 0.4, key=jax.random.key(0))
    texts, had_text = np.asarray(masks.any(1)), mask.any(1)
    assert np.all(images | texts)
    assert not np.any(images & ~has_image)
    assert not np.any(masks & ~mask)
    np.testing.assert_array_equal(texts[~has_image], True)
    np.testing.assert_array_equal(images[~had_text], True)
    both = has_image & had_text
    assert np.mean(~texts[both]) == pytest.approx(0.4, abs=0.06)
    assert np.mean(~images[both & texts]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.slow
def test_parts_are_dropped_only_in_training():
    model, batch = _mixer(drop_text=0.9), _batch()
    variables = _init(model, batch)

    def run(train, seed):
        out, _ = model.apply(
            variables,
            batch,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(seed)},
        )
        return out["slots"].sum(1)

    has_text = batch["document"]["token_mask"].any(1)
    np.testing.assert_allclose(run(False, 0), has_text, atol=1e-5)
    kept = [np.asarray(run(True, seed)) > 0.5 for seed in range(3)]
    assert sum(k.sum() for k in kept) < 3 * has_text.sum()
    alone = has_text & ~batch["document"]["has_image"]
    for k in kept:
        np.testing.assert_array_equal(k[alone], True)


def test_padding_tokens_do_not_affect_documents():
    model, batch = _mixer(), _batch()
    variables = _init(model, batch)
    before = _apply(model, variables, batch)["document"]
    mask = batch["document"]["token_mask"]
    tokens = batch["document"]["tokens"]
    changed = {
        **batch,
        "document": {
            **batch["document"],
            "tokens": np.where(mask, tokens, 7),
        },
    }
    after = _apply(model, variables, changed)["document"]
    np.testing.assert_array_equal(before, after)


@functools.cache
def _unsharded():
    """Returns variables, a gradient function, and its gradients."""
    model, batch = _mixer(dropout=0.5, drop_image=0.4, drop_text=0.4), _batch()
    variables, step = _init(model, batch), _gradients(model)
    return variables, step, step(variables, batch)


def test_sharded_gradients_match_unsharded(num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    variables, step, expected = _unsharded()
    actual = step(
        jax.device_put(variables, mesh_lib.replicated(mesh)),
        mesh_lib.put_batch(_batch(), mesh),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        actual,
        expected,
    )


@functools.cache
def _in_chunks(chunk):
    """Returns a model, its variables, and its gradient function."""
    model = _mixer(image_chunk=chunk).clone(
        image_encoder=TinyEncoder(batch_norm="frozen")
    )

    return _init(model, _batch()), _gradients(model)


@functools.cache
def _at_once():
    variables, step = _in_chunks(0)
    return step(variables, _batch())


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [3, 8])
def test_chunks_of_images_change_nothing(chunk, num_devices):
    """Embeddings and gradients are equal; 3 does not divide the 16 images."""
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    variables, step = _in_chunks(chunk)
    jax.tree.map(np.testing.assert_array_equal, variables, _in_chunks(0)[0])
    actual = step(
        jax.device_put(variables, mesh_lib.replicated(mesh)),
        mesh_lib.put_batch(_batch(), mesh),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        actual,
        _at_once(),
    )


def test_chunks_of_images_move_no_rows_between_devices():
    """The chunk size must be a multiple of the number of devices."""
    mesh = mesh_lib.make_mesh()
    encoder = TinyEncoder(batch_norm="frozen")
    images = np.zeros((32, 8, 8, 3), np.uint8)
    variables = jax.jit(encoder.init)(jax.random.key(0), images)
    encode = jax.jit(
        lambda variables, images: nn.apply(
            lambda encoder, x: in_chunks(encoder, x, 16, train=False), encoder
        )(variables, images)
    )
    compiled = encode.lower(
        jax.device_put(variables, mesh_lib.replicated(mesh)),
        jax.device_put(images, mesh_lib.rows(mesh)),
    ).compile()
    text = compiled.as_text()
    assert "while" in text
    assert not re.search("all-gather|all-to-all|collective-permute", text)


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    model, batch = _mixer(), _batch()
    variables = _init(model, batch)
    half = _apply(_mixer(dtype=jnp.bfloat16), variables, batch)
    exact = _apply(model, variables, batch)
    for role in ("query", "document"):
        assert half[role].dtype == jnp.float32
        cosine = (half[role] * exact[role]).sum(1)
        assert cosine.min() > 0.99


def test_normalize_of_zero_has_a_finite_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(normalize(x), [[0, 0], [0.6, 0.8]], atol=1e-6)
    gradient = jax.grad(lambda x: normalize(x).sum())(x)
    assert np.isfinite(gradient).all()


def test_interleaving_moves_no_rows_between_devices():
    mesh = mesh_lib.make_mesh()
    queries, documents = (
        jax.device_put(np.arange(16.0).reshape(16, 1) * s, mesh_lib.rows(mesh))
        for s in (1, -1)
    )
    join = jax.jit(interleave)
    joined = join(queries, documents)
    assert joined[:4, 0].tolist() == [0, 0, 1, -1]
    assert (
        "all-gather" not in join.lower(queries, documents).compile().as_text()
    )
