import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.fusion import FUSIONS

TEXT_FUSIONS = sorted(name for name, f in FUSIONS.items() if f.uses_text)


def _inputs():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(4, 6, 5)).astype(np.float32)
    concept = rng.normal(size=(4, 3)).astype(np.float32)
    has_image = np.array([True, True, False, False])
    has_text = np.array([True, False, True, False])
    return patches, concept * has_text[:, None], has_image, has_text


def _run(name):
    inputs = _inputs()
    fusion = FUSIONS[name](dim=3)
    rng = np.random.default_rng(1)
    # Random values everywhere: layers that are zero would have no effect.
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        fusion.init(jax.random.key(0), *inputs),
    )
    kernels = {
        layer: np.asarray(leaves["kernel"])
        for layer, leaves in variables["params"].items()
        if "kernel" in leaves
    }
    if "image" in kernels:
        bias = variables["params"]["image"]["bias"]
        kernels["image bias"] = np.asarray(bias)
    return fusion, variables, kernels, inputs


def test_concept_attention_matches_its_equations():
    fusion, variables, w, (patches, concept, *masks) = _run("concept_attention")
    out = fusion.apply(variables, patches, concept, *masks)
    logits = (patches[0] @ w["key"]) @ (concept[0] @ w["query"]) / np.sqrt(3)
    weights = np.exp(logits) / np.exp(logits).sum()
    image = patches.mean(1) @ w["image"] + w["image bias"]
    full = image[0] + weights @ (patches[0] @ w["value"])
    np.testing.assert_allclose(
        out[0], full + concept[0] @ w["concept"], rtol=1e-4, atol=1e-5
    )
    # Without text: uniform attention, no concept.
    uniform = image[1] + patches[1].mean(0) @ w["value"]
    np.testing.assert_allclose(out[1], uniform, rtol=1e-4, atol=1e-5)
    # Without an image: only the concept.
    np.testing.assert_allclose(
        out[2], concept[2] @ w["concept"], rtol=1e-4, atol=1e-5
    )


def test_average_is_the_mean_of_the_present_parts():
    fusion, variables, w, (patches, concept, *masks) = _run("average")
    out = fusion.apply(variables, patches, concept, *masks)
    image = patches.mean(1) @ w["image"] + w["image bias"]
    text = concept @ w["concept"]
    expected = [(image[0] + text[0]) / 2, image[1], text[2], 0 * image[3]]
    np.testing.assert_allclose(out, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_gated_fusion_mixes_image_and_text():
    fusion, variables, w, (patches, concept, *masks) = _run("gated")
    out = fusion.apply(variables, patches, concept, *masks)
    image = patches.mean(1) @ w["image"] + w["image bias"]
    text = concept @ w["concept"]
    both = np.concatenate([image[0], text[0]]) @ w["gate"]
    gate = 1 / (1 + np.exp(-both - variables["params"]["gate"]["bias"]))
    mixed = gate * image[0] + (1 - gate) * text[0]
    expected = [mixed, image[1], text[2], 0 * image[3]]
    np.testing.assert_allclose(out, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_text_only_fusion_is_the_projected_concept():
    fusion, variables, w, (patches, concept, *masks) = _run("text_only")
    out = fusion.apply(variables, patches, concept, *masks)
    np.testing.assert_allclose(
        out, concept @ w["concept"], rtol=1e-4, atol=1e-5
    )


def test_merged_attention_starts_as_the_mean_of_its_tokens():
    patches, concept, *masks = _inputs()
    fusion = FUSIONS["merge"](dim=3)
    variables = fusion.init(jax.random.key(0), patches, concept, *masks)
    out = fusion.apply(variables, patches, concept, *masks)
    kernels = variables["params"]
    image = patches @ kernels["image"]["kernel"]
    text = concept @ kernels["concept"]["kernel"]
    both = (image[0].sum(0) + text[0]) / 7
    expected = [both, image[1].mean(0), text[2], 0 * text[3]]
    np.testing.assert_allclose(out, np.stack(expected), rtol=1e-4, atol=1e-5)


USES_IMAGE = sorted(FUSIONS.keys() - {"text_only"})


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_missing_parts_have_no_influence(name):
    fusion, variables, _, (patches, concept, has_image, has_text) = _run(name)

    def total(patches, concept):
        out = fusion.apply(variables, patches, concept, has_image, has_text)
        return jnp.sum(out * jnp.array([1.0, -2.0, 3.0])[None])

    by_patches, by_concept = jax.grad(total, (0, 1))(patches, concept)
    np.testing.assert_array_equal(by_patches[~has_image], 0)
    np.testing.assert_array_equal(by_concept[~has_text], 0)
    if name in USES_IMAGE:
        assert (np.abs(by_patches[has_image]).max((1, 2)) > 0).all()
    if name in TEXT_FUSIONS:
        assert (np.abs(by_concept[has_text]).max(1) > 0).all()
    else:
        np.testing.assert_array_equal(by_concept, 0)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_only_attention_depends_on_more_than_the_mean_patch(name):
    fusion, variables, _, (patches, *others) = _run(name)
    whole = fusion.apply(variables, patches, *others)
    means = fusion.apply(variables, patches.mean(1, keepdims=True), *others)
    moved = np.abs(whole - means).max()
    assert moved > 0.1 if FUSIONS[name].attends else moved < 1e-5
