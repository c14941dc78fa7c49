"""Supported values in an original's config.json."""

import pytest

from mixer_jax.models.encoders import family
from mixer_jax.runtime.errors import UserError


def test_missing_and_supported_values_are_accepted():
    family.check_fixed("BERT", {"act": "gelu"}, {"act": "gelu", "bias": True})


def test_an_unsupported_value_is_named_with_the_supported_one():
    message = "The BERT config has act = 'relu'; supported: 'gelu'"
    with pytest.raises(UserError, match=message):
        family.check_fixed("BERT", {"act": "relu"}, {"act": "gelu"})
