"""The tables of encoders."""

import dataclasses
import pathlib

import pytest

from mixer_jax.models.encoders import registry

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "encoders.md"
FAMILIES = [f for table in registry.FAMILIES.values() for f in table.values()]


def test_families_match_registered_encoders():
    made = {
        encoder.func
        for table in registry.ENCODERS.values()
        for encoder in table.values()
    }
    for family in FAMILIES:
        assert family.module in made
        assert dataclasses.is_dataclass(family.sizes)


@pytest.mark.parametrize(
    "name", [name for table in registry.ENCODERS.values() for name in table]
)
def test_every_encoder_is_documented(name):
    assert f"`{name}`" in DOCS.read_text("utf-8")
