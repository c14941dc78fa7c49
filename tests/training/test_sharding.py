"""Sharding rules for paths, and the resulting layouts."""

import jax
import numpy as np
import pytest

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import sharding

BIG = 2**12


@pytest.fixture
def params():
    shapes = {
        "encoder": {
            "table": (BIG, 24),
            "kernel": (24, BIG),
            "odd": (BIG - 1, 23),
            "bias": (24,),
        },
        "fusion": {"kernel": (BIG, BIG)},
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def specs(tree, rules, num_devices=4):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    found = sharding.layouts(tree, mesh, rules)
    return jax.tree.map(lambda layout: tuple(layout.spec), found)


def test_first_matching_pattern_applies(params):
    rules = (("table", "rows"), ("encoder", "fsdp"))
    assert specs(params, rules) == {
        "encoder": {
            "table": ("data", None),
            "kernel": (None, "data"),
            "odd": (),  # no axis is divisible by the number of devices
            "bias": (),  # too small
        },
        "fusion": {"kernel": ()},
    }
    assert (
        specs(params, (("table", "replicate"), *rules))["encoder"]["table"]
        == ()
    )


def test_rows_rule_splits_the_first_axis(params):
    found = specs(params, (("encoder", "rows"),), 8)["encoder"]
    assert found["table"] == ("data", None)
    assert found["kernel"] == ("data", None)
    assert found["odd"] == ()


def test_moments_have_the_layout_of_their_parameters(params):
    count = jax.ShapeDtypeStruct((), np.int32)
    rules = (("encoder", "fsdp"),)
    count, moments = specs((count, {"mu": params, "nu": params}), rules)
    assert count == ()
    for tree in moments.values():
        assert tree == specs(params, rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("encoder", "zero"),), "no rule 'zero'.*replicate, fsdp, rows"),
        ((("decoder", "fsdp"),), "matches 'decoder'; .*encoder, fusion"),
        ((("(", "fsdp"),), "not a regular expression"),
    ],
)
def test_invalid_rules_raise_an_error(rules, message):
    with pytest.raises(UserError, match=message):
        sharding.check(rules, ["encoder/kernel", "fusion/kernel"])


@pytest.mark.parametrize("rule", sharding.RULES)
def test_gather_returns_the_original_values(rule):
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    tree = {"encoder": np.arange(2.0**17).reshape(2**9, -1)}
    rules = (("encoder", rule),)
    placed = jax.device_put(tree, sharding.layouts(tree, mesh, rules))
    local = placed["encoder"].addressable_shards[0].data.shape[0]
    assert local == (2**9 if rule == "replicate" else 2**7)
    gather = jax.jit(lambda tree: sharding.gather(tree, mesh, rules))
    whole = gather(placed)["encoder"]
    np.testing.assert_array_equal(whole, tree["encoder"])
    assert whole.sharding.is_fully_replicated == (rule != "rows")
