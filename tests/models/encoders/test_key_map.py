"""Conversion of names and layouts in both directions."""

import jax
import numpy as np
import pytest

from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.runtime.errors import UserError

KEYS = KeyMap(
    pairs=(
        (r"layer(\d+)/(query|norm)", r"encoder.\1.\2"),
        (r"table", r"words.weight"),
    ),
    ignored=r"pooler\..*",
    prefix="model.",
)


def variables():
    rng = np.random.default_rng(0)
    layer = {
        "query": {"kernel": rng.normal(size=(3, 5)), "bias": np.ones(5)},
        "norm": {"scale": np.full(5, 2.0), "bias": np.zeros(5)},
    }
    tree = {
        "params": {"layer3": layer, "table": rng.normal(size=(7, 3))},
        "batch_stats": {"layer3": {"norm": {"mean": np.ones(5)}}},
    }
    return jax.tree.map(np.float32, tree)


def test_store_uses_the_names_and_layouts_of_originals():
    stored = KEYS.store(variables())
    params = variables()["params"]
    kernel = stored.pop("encoder.3.query.weight")
    np.testing.assert_array_equal(kernel, params["layer3"]["query"]["kernel"].T)
    np.testing.assert_array_equal(stored.pop("words.weight"), params["table"])
    assert sorted(stored) == [
        "encoder.3.norm.bias",
        "encoder.3.norm.running_mean",
        "encoder.3.norm.weight",
        "encoder.3.query.bias",
    ]


def test_convolution_kernels_are_transposed():
    keys = KeyMap((("stem", "conv"),))
    kernel = np.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    stored = keys.store({"params": {"stem": {"kernel": kernel}}})
    assert stored["conv.weight"].shape == (5, 4, 2, 3)
    assert stored["conv.weight"][4, 1, 0, 2] == kernel[0, 2, 1, 4]


def test_stored_tensors_with_a_prefix_load():
    wanted = variables()
    tensors = {f"model.{n}": t for n, t in KEYS.store(wanted).items()}
    tensors["pooler.weight"] = np.ones(1)
    loaded = KEYS.load(tensors, wanted, "it")
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted)


def test_all_misfits_are_listed_at_once():
    tensors = KEYS.store(variables())
    tensors["encoder.3.norm.wait"] = tensors.pop("encoder.3.norm.weight")
    tensors["words.weight"] = tensors["words.weight"][:2]
    with pytest.raises(UserError, match="weights it do not fit") as caught:
        KEYS.load(tensors, variables(), "it")
    for message in (
        "encoder.3.norm.weight is missing from the file (it has encoder.3.norm",
        "words.weight has shape (2, 3) in the file and (7, 3) in the model",
        "encoder.3.norm.wait is not in the model",
    ):
        assert message in str(caught.value)


def test_leaf_without_a_pair_raises_key_error():
    with pytest.raises(KeyError, match="no pair for c/kernel"):
        KEYS.name(("params", "c", "kernel"))
