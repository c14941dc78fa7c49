from mixer_jax.demo import emoji
from mixer_jax.demo.emoji_sets import fxemoji_names, names


def test_names_are_plain_and_keys_are_emoji():
    found = fxemoji_names.NAMES
    assert len(found) == 302
    assert all(name == names.plain(name) for name in found)
    keys = [key for key in found.values() if key]
    assert set(keys) <= set(emoji.drawings()["openmoji"])
    assert len(keys) == len(set(keys)) == 298


def test_names_of_other_emoji_are_corrected():
    assert fxemoji_names.NAMES["cat"] == "1f431"
    assert fxemoji_names.NAMES["foxwry"] == "1f63c"
    assert fxemoji_names.NAMES["window"] == ""
