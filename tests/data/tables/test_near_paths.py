import pathlib
import tempfile
import unicodedata
import urllib.parse

import hypothesis
import hypothesis.strategies as st
import pytest

from mixer_jax.data.tables import near_paths

NFC, NFD = (
    unicodedata.normalize(form, "Gr\u00f6\u00dfe") for form in ("NFC", "NFD")
)


@pytest.mark.parametrize(
    ("existing", "given", "note"),
    [
        (f"{NFD}/a.png", f"{NFC}/a.png", "normal form"),
        (f"img/{NFC}.png", f"img/{NFD}.png", "normal form"),
        ("img/a.png", "img\\a.png", "Use '/'"),
        ("img/a.png", "IMG/A.PNG", ""),
        ("img/a.png", "img/a.jpg", ""),
        ("img/a.png", " img/a.png ", ""),
        ("img/a b.png", "img/a%20b.png", "URL"),
        ("img/a.png", "img%2Fa.png", "URL"),
    ],
)
def test_hint_names_a_similar_path(tmp_path, existing, given, note):
    path = tmp_path / existing
    path.parent.mkdir()
    path.touch()
    hint = near_paths.hint(tmp_path / given, tmp_path)
    assert hint.startswith(f" Did you mean {existing!r}?")
    assert note in hint


@pytest.mark.parametrize("given", ["b.png", "img", "a\0b", "../a.png/x", "."])
def test_no_hint_without_a_similar_path(tmp_path, given):
    (tmp_path / "img").mkdir()
    (tmp_path / "a.png").touch()
    assert near_paths.hint(tmp_path / given, tmp_path) == ""


PARTS = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\%"),
    min_size=1,
    max_size=10,
).filter(lambda name: name not in (".", ".."))
MISTAKES = (
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: name.replace("/", "\\"),
    lambda name: f"{name} ",
    urllib.parse.quote,
)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    st.lists(PARTS, min_size=2, max_size=3), st.sampled_from(MISTAKES)
)
def test_hint_names_any_path_with_one_mistake(parts, mistake):
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root, *parts)
        path.parent.mkdir(parents=True)
        path.touch()
        name = "/".join(parts)
        given = pathlib.Path(root, mistake(name))
        hypothesis.assume(not given.exists())
        assert repr(name) in near_paths.hint(given, root)
