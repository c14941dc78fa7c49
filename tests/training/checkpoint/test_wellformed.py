"""Files written by training are distinguished from others."""

import json
import math

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import wellformed
from mixer_jax.training.config import defaults


def config(**changes):
    return json.loads(defaults.to_json(defaults.defaults())) | changes


def test_configs_with_and_without_new_keys_are_valid():
    assert wellformed.is_config(config())
    older = config()
    del older["steps"], older["model"]
    assert wellformed.is_config(older)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": "9"},
        {"model": 3},
        {"data": {"table": "a\0b"}},
        {"init_from": "\ud800"},
        {"a.b": 1},
    ],
)
def test_values_of_other_types_are_invalid(changes):
    assert not wellformed.is_config(config(**changes))


def test_origin_must_have_the_required_keys():
    place = {"given": "a", "absolute": "/a"}
    assert wellformed.is_origin({})
    assert wellformed.is_origin({"places": {"data.table": place}})
    assert not wellformed.is_origin({"places": {"data.table": {"given": "a"}}})
    assert not wellformed.is_origin({"init_from": {"run": "a"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"image_size": 0}}, "data.image_size is 0"),
        ({"model": {"hidden": -1}}, "model.hidden is -1"),
        ({"model": {"dropout": 1.0}}, "model.dropout is 1.0"),
        ({"evaluate": {"batch_size": 0}}, "evaluate.batch_size is 0"),
    ],
)
def test_number_out_of_range_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        wellformed.is_config(changes)


@pytest.mark.parametrize("number", [math.nan, math.inf, 10**400])
def test_non_finite_and_huge_numbers_are_invalid(number):
    assert not wellformed.is_config({"data": {"temperature": number}})
    assert not wellformed.is_config({"data": {"image_size": number}})
