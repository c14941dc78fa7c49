import pytest

from mixer_jax.demo import icon_packages
from mixer_jax.demo.emoji_sets import names

KNOWN = {
    "1f408": names.Emoji("cat", ("pet",)),
    "1f431": names.Emoji("cat face", ()),
    "1f3c3": names.Emoji("person running", ()),
    "1f1e6-1f1f9": names.Emoji("flag: Austria", ()),
    "1f1e8-1f1ee": names.Emoji("flag: Côte d\u2019Ivoire", ()),
    "23-20e3": names.Emoji("keycap: #", ()),
    "2a-20e3": names.Emoji("keycap: *", ()),
}


def icon_set(*icons, chars=(), aliases=(), hidden=()):
    return icon_packages.IconSet(
        prefix="any",
        info={},
        icons={
            name: {"body": ""} | ({"hidden": True} if name in hidden else {})
            for name in icons
        },
        aliases=dict(aliases),
        categories={},
        prefixes=(),
        suffixes=(),
        chars=dict(chars),
        box={},
    )


def test_emoji_have_no_skin_tones():
    entries = [
        {"hexcode": "1F44B", "label": "waving hand", "tags": ["wave"]},
        {"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone"},
        {"hexcode": "2764-FE0F", "label": "red heart"},
        {"hexcode": "1F3FB", "label": "light skin tone"},
    ]
    found = names.read_emoji(entries)
    assert list(found) == ["1f44b", "2764", "1f3fb"]
    assert found["1f44b"] == names.Emoji("waving hand", ("wave",))
    assert found["2764"].keywords == ()


def test_plain_names_ignore_spelling():
    for name in ("flag-for-flag-austria", "flag-for-austria", "Flag: Austria"):
        assert names.plain(name) == "flagaustria"
    assert names.plain("Côte d\u2019Ivoire") == "cotedivoire"
    assert names.plain("fork-and-knife-2") == "forkandknife2"


def test_code_points_of_a_set_are_used():
    one = icon_set(
        "tabby",
        "cat",
        "gone",
        "tone",
        chars={"1f431": "cat", "1f408": "gone", "1f44b-1f3fb": "tone"},
        hidden=("gone",),
    )
    assert names.join(one, KNOWN, {"tabby": "1f408"}) == {"1f431": "cat"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kitty", "1f408"),  # as a set with code points says
        ("person-running", "1f3c3"),  # CLDR
        ("flag-for-flag-austria", "1f1e6-1f1f9"),
        ("runner", "1f3c3"),  # Unicode
        ("jogger", "1f3c3"),  # another name in the set
        ("mirrored", None),
        ("keycap", None),  # means two emoji
        ("dog", None),
    ],
)
def test_names_are_joined_to_code_points(name, key):
    other = icon_set(
        "kitty",
        "running",
        chars={"1f408": "kitty", "1f3c3": "running"},
        aliases={
            "jogger": {"parent": "running"},
            "mirrored": {"parent": "running", "hFlip": True},
        },
    )
    by_name = names.known_names([other], KNOWN)
    found = names.join(icon_set(name), KNOWN, by_name)
    assert found == ({key: name} if key else {})


def test_most_frequent_meaning_counts_and_earlier_sources_precede():
    first, second, third = (
        icon_set("cat", chars={key: "cat"})
        for key in ("1f431",) * 2 + ("1f408",)
    )
    by_name = names.known_names([first, second, third], KNOWN)
    assert by_name["cat"] == "1f431"
    # Two meanings are as frequent, so CLDR decides.
    by_name = names.known_names([first, third], KNOWN)
    assert by_name["cat"] == "1f408"


def test_every_emoji_is_joined_once():
    by_name = {"cat": "1f408", "tabby": "1f408"}
    found = names.join(icon_set("tabby", "cat"), KNOWN, by_name)
    assert found == {"1f408": "cat"}
