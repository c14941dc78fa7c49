import hashlib

import pytest

from mixer_jax.demo import icon_names

# Each example is one icon set: the set's prefix, the suffixes and prefixes that
# it lists, an icon's name, and the expected category.
EXAMPLES = [
    ("ph", ["bold", "fill", ""], [], "house-bold", "house"),
    ("ph", ["bold", "fill", ""], [], "house", "house"),
    ("fluent", ["24-filled", "filled"], [], "home-24-filled", "home"),
    ("solar", ["line-duotone"], [], "home-2-line-duotone", "home-2"),
    ("ic", [], ["baseline", "twotone"], "baseline-home", "home"),
    ("any", [], [], "home-outline", "home"),
    ("any", [], [], "home-filled-outline", "home"),
    ("any", [], [], "home-two-tone", "home"),
    ("any", ["line"], [], "line", "line"),
    ("any", [], ["baseline"], "baseline-outline", "outline"),
    ("any", [], [], "solid", "solid"),
    ("any", [], [], "outline-home", "outline-home"),
    ("any", [], [], "pipeline", "pipeline"),
    ("any", [], [], "chart-line", "chart-line"),
    ("any", [], [], "rotate-24", "rotate-24"),
    ("noto", [], [], "artist-dark-skin-tone", "artist-dark-skin-tone"),
    ("twemoji", [], [], "flashlight", "flashlight"),
]


@pytest.mark.parametrize(
    ("prefix", "suffixes", "prefixes", "name", "want"), EXAMPLES
)
def test_category_is_the_name_without_style(
    prefix, suffixes, prefixes, name, want
):
    names = {name, *(f"other{k}" for k in range(30))}
    style = icon_names.affixes(names, prefixes, suffixes)
    assert icon_names.category(prefix, name, names, style) == want


@pytest.mark.parametrize("word", ["line", "light", "o", "24"])
def test_ambiguous_word_is_a_style_only_if_common(word):
    rare = {f"thing{k}" for k in range(99)} | {f"chart-{word}"}
    common = rare | {f"thing{k}-{word}" for k in range(9)}
    for names, want in ((rare, f"chart-{word}"), (common, "chart")):
        style = icon_names.affixes(names, (), ())
        name = f"chart-{word}"
        assert icon_names.category("any", name, names, style) == want


def test_skin_tones_are_normalized_and_not_a_style():
    names = {"artist", "artist-dark", "artist-medium-light", "moon-light"}
    style = icon_names.affixes(names, (), ())

    def category(name):
        return icon_names.category("fluent-emoji-flat", name, names, style)

    assert category("artist-dark") == "artist-dark-skin-tone"
    assert category("artist-medium-light") == "artist-medium-light-skin-tone"
    assert category("artist") == "artist"
    assert category("moon-light") == "moon-light"  # There is no plain moon.


@pytest.mark.parametrize(
    ("prefixes", "same"),
    [
        (("simple-icons", "thesvg", "thesvg-color"), True),
        (("cryptocurrency", "cryptocurrency-color"), True),
        (("fa", "fa-brands", "fa6-solid", "fa7-regular"), True),
        (("icon-park", "icon-park-twotone"), True),
        (("ic", "mdi", "mdi-light", "material-symbols-light"), True),
        (("fluent-emoji", "fluent-emoji-high-contrast"), True),
        (("feather", "lucide", "lucide-lab", "meteor-icons"), True),
        (("reicon", "solar"), True),
        (("map", "pinhead", "temaki"), True),
        (("ion", "famicons"), True),
        (("fa", "fad"), False),
        (("ic", "icons8"), False),
        (("map", "maki"), False),
        (("material-symbols", "material-icon-theme"), False),
    ],
)
def test_copies_count_as_one_vendor(prefixes, same):
    for category in ("home", _test_category()):
        vendors = {
            icon_names.vendor(prefix, "one author" * same or prefix, category)
            for prefix in prefixes
        }
        assert (len(vendors) == 1) == same


def test_author_is_one_vendor_only_in_test_categories():
    sets = ("bx", "bxs"), ("fluent-emoji", "fluent")
    for one, two in sets:
        assert not icon_names.is_test("home")
        assert icon_names.vendor(one, "Ann", "home") != (
            icon_names.vendor(two, "Ann", "home")
        )
        key = _test_category()
        assert icon_names.vendor(one, "Ann", key) == (
            icon_names.vendor(two, "Ann", key)
        )


@pytest.mark.parametrize(
    ("label", "want"),
    [
        ("Food & Drink", "food drink"),
        ("Food and Drink", "food drink"),
        ("FoodDrink", "food drink"),
        ("Food / Drink", "food drink"),
        ("Arrows-action", "arrows action"),
        ("AI", "ai"),
        ("Android", "android"),
        ("Misc", ""),
        ("", ""),
    ],
)
def test_labels_are_normalized(label, want):
    assert icon_names.group(label) == want


def test_split_follows_the_hash_and_ignores_skin_tones():
    for key in [f"thing-{k}" for k in range(200)]:
        number = int(hashlib.sha1(key.encode()).hexdigest(), 16)
        assert icon_names.is_test(key) == (number % 10 == 0)
        for tone in ("dark", "medium-light", "light-skin-tone-dark"):
            toned = f"{key}-{tone}-skin-tone"
            assert icon_names.base_key(toned) == key
            assert icon_names.is_test(toned) == icon_names.is_test(key)
            assert icon_names.base_key(f"{toned}-beard") == f"{key}-beard"
    assert icon_names.base_key("dark-skin-tone") == "dark-skin-tone"


def test_query_vendors_are_half_of_the_vendors():
    vendors = [f"v{k}" for k in range(5)]
    chosen = []
    for count in range(2, 6):
        for k in range(50):
            some = icon_names.query_vendors(f"c{k}", vendors[:count])
            assert len(some) == count // 2
            assert some < set(vendors[:count])
            again = icon_names.query_vendors(f"c{k}", vendors[count - 1 :: -1])
            assert some == again
            chosen += some
    # Each vendor has queries and documents.
    assert all(20 < chosen.count(vendor) < 180 for vendor in vendors)


def test_shuffled_order_is_independent_of_input_order():
    names = [f"c{k}" for k in range(20)]
    order = icon_names.shuffled(names)
    assert order == icon_names.shuffled(names[::-1])
    assert sorted(order) == sorted(names)
    assert order != names


def _test_category():
    keys = (f"thing-{k}" for k in range(100))
    return next(key for key in keys if icon_names.is_test(key))
