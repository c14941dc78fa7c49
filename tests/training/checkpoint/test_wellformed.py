"""Files that training writes, and files that it does not."""

import json

import pytest

from mixer_jax.training.checkpoint import wellformed
from mixer_jax.training.config import defaults


def config(**changes):
    return json.loads(defaults.to_json(defaults.defaults())) | changes


def test_a_config_and_one_of_an_older_version_are_valid():
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
def test_other_types_are_not_a_config(changes):
    assert not wellformed.is_config(config(**changes))


def test_categories_are_unique_strings():
    assert wellformed.is_categories(["a", "b"])
    assert not wellformed.is_categories(["a", "a"])
    assert not wellformed.is_categories(["a", 1])


def test_an_origin_needs_the_keys_that_are_read():
    place = {"given": "a", "absolute": "/a"}
    assert wellformed.is_origin({})
    assert wellformed.is_origin({"places": {"data.table": place}})
    assert not wellformed.is_origin({"places": {"data.table": {"given": "a"}}})
    assert not wellformed.is_origin({"init_from": {"run": "a"}})
