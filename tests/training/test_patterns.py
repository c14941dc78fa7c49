"""Patterns for parameter paths, checked and matched."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training import patterns

PATHS = ["image_encoder/stem/kernel", "text_encoder/embedding"]
KEY = "optimizer.parts"


def test_patterns_that_match_a_path_or_another_name_are_valid():
    patterns.check(KEY, "image_encoder/(stem|head)", PATHS)
    patterns.check(KEY, "^proxies$", PATHS, ["proxies"])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("image_(", r"optimizer\.parts: 'image_\(' is not a regular expres"),
        ("memory", "'memory'; the model's parts are image_encoder, text_enc"),
    ],
)
def test_other_patterns_raise_an_error(pattern, message):
    with pytest.raises(UserError, match=message):
        patterns.check(KEY, pattern, PATHS)


def test_the_first_pattern_that_matches_decides():
    pairs = [("stem", 0.1), ("image_encoder", 0.2)]
    assert patterns.find(pairs, "image_encoder/stem/kernel", 1.0) == 0.1
    assert patterns.find(pairs, "image_encoder/head/kernel", 1.0) == 0.2
    assert patterns.find(pairs, "text_encoder/embedding", 1.0) == 1.0
