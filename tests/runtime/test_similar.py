import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.runtime import similar


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("cat", "cat "),
        ("cat", "\tCat"),
        ("a b", "a\xa0 b"),
        ("12", "12.0"),
        ("7", "007"),
        ("é", "e\u0301"),
        ("0", "000"),
        ("cat", "c\u200bat"),
        ("cat", "\ufeffcat"),
        ("cat", "cat\0"),
        ("cat", "c\xada\ufe0ft\u3164"),
        ("a b", "a \u200b b"),
    ],
)
def test_similar_names_have_equal_keys(a, b):
    assert similar.keys([a]) == similar.keys([b])
    assert similar.pairs(["other", a, b]) == [(a, b)]
    assert "which has" in similar.hint(a, ["x", b])


@pytest.mark.parametrize(
    ("a", "b"),
    [("1.5", "1"), ("12", "120"), ("a.0", "a"), ("", "0"), ("a", "b")],
)
def test_different_names_have_different_keys(a, b):
    assert similar.pairs([a, b]) == []
    assert similar.hint(a, [b]) == ""


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=8))
def test_normal_forms_have_equal_keys(name):
    (key,) = similar.keys([name]).to_pylist()
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        assert similar.keys([f" {other}\n"]).to_pylist() == [key]


def test_hint_mentions_floats_of_pandas():
    assert "into floats" in similar.hint("12.0", ["12"])
    assert "into floats" in similar.hint("12", ["12.0"])
    assert "into floats" not in similar.hint("12 ", ["12"])


def test_misspelled_name_is_found():
    name, hint = similar.misspelled(["x", "7", "8"], ["y", "7.0", "8"])
    assert name == "7"
    assert hint.startswith(", which has '7.0': a program such as pandas")
    assert not similar.misspelled(["a", "A"], ["a"])  # "a" was looked up
    assert not similar.misspelled(["a"], ["a", "A"])
    assert not similar.misspelled([], ["a"])
