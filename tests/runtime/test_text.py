"""User text in messages."""

import difflib

import hypothesis
import pytest
from hypothesis import strategies as st

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, nearest, one_line, printable


@hypothesis.given(st.text())
@hypothesis.settings(deadline=None, max_examples=200)
def test_only_control_characters_are_escaped(text):
    shown = printable(text)
    # The text can be encoded and does not affect a terminal.
    shown.encode()
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not any(0x7F <= ord(c) < 0xA0 for c in shown)
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("over\rwritten", r"over\rwritten"),
        ("caf\udce9.png", r"caf\udce9.png"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2028line", r"\u2028line"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\N{WOMAN}\u200d\N{ROCKET}", "\N{WOMAN}\u200d\N{ROCKET}"),
    ],
)
def test_printable_escapes_each_kind_of_control_character(text, shown):
    assert printable(text) == shown


def test_error_messages_are_escaped():
    error = UserError("There is no file \x1b]0;title\x07\udcff.")
    assert str(error) == r"There is no file \x1b]0;title\x07\udcff."


@hypothesis.given(st.text())
@hypothesis.settings(deadline=None, max_examples=50)
def test_one_line_returns_one_line(text):
    assert len(one_line(f"a{text}z").splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roles", ["role"]),
        (" Role ", ["role"]),
        ("category-id", ["category_id"]),
        ("id", []),
        ("", []),
    ],
)
def test_nearest_returns_the_known_spelling(name, expected):
    assert nearest(name, ["category_id", "role", "image"]) == expected


def test_nearest_returns_the_most_similar_names_first():
    known = iter(["step", "steps_2", "image", "steps"])
    assert nearest("stepss", known, 2) == ["steps", "step"]


def test_long_names_are_cut_before_they_are_compared(monkeypatch):
    words = []
    monkeypatch.setattr(
        difflib, "get_close_matches", lambda word, *_: words.append(word) or []
    )
    assert did_you_mean("x" * 10_000, ["x"]) == ""
    assert words == ["x" * 200]


def test_did_you_mean_names_one_similar_name():
    known = ["text", "textual"]
    assert did_you_mean("txt", known) == "; did you mean 'text'?"
    assert did_you_mean("image", known) == ""
