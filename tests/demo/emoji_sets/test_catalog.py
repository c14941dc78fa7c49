import pytest

from mixer_jax.data.images import decoding
from mixer_jax.demo.emoji_sets import catalog
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def read(tmp_path, emoji_sets, emojibase, pack_icons):
    def read(limit=None):
        package = pack_icons(tmp_path / "sets.tgz", emoji_sets)
        return catalog.read(package, emojibase, limit)

    return read


@pytest.fixture
def by_prefix(emoji_sets):
    return {one["prefix"]: one for one in emoji_sets}


def test_every_set_has_every_emoji(read, emoji_keys):
    found = read()
    keys = {key for chosen in emoji_keys.values() for key in chosen}
    for _, rows in found.drawings.groupby("set"):
        assert sorted(rows["key"]) == sorted(keys)
    sets = found.drawings.groupby("family")["set"].agg(set)
    assert sets.to_dict() == {k: set(v) for k, v in catalog.FAMILIES.items()}
    assert found.counts["noto-v1"] == (12, 12)
    assert found.counts["twemoji"].drawings > 3000
    assert found.counts["twemoji"].joined == 12


def test_python_packages_have_the_drawings_of_two_sets(read):
    drawings = read().drawings
    python = drawings["set"].isin(["openmoji", "twemoji"])
    assert not drawings["svg"][python].str.contains('viewBox="0 0 24 24"').any()
    assert drawings["svg"][~python].str.contains('viewBox="0 0 24 24"').all()


def test_emoji_of_one_family_are_left_out(read, by_prefix, emoji_keys):
    key = emoji_keys["train"][0]
    for prefix, one in by_prefix.items():
        if not prefix.startswith("noto"):
            one["icons"].pop(f"emoji-{key}")
            one.get("chars", {}).pop(key, None)
    drawings = read().drawings
    # Twemoji and OpenMoji draw it too.
    families = set(drawings["family"][drawings["key"] == key])
    assert families == {"noto", "openmoji", "twemoji"}
    assert set(read(limit=3).drawings["key"]) < set(drawings["key"])
    assert read(limit=3).drawings["key"].nunique() == 3


def test_own_names_of_fxemoji_are_known(read, by_prefix, monkeypatch):
    names = catalog.fxemoji_names.NAMES
    key = next(iter(by_prefix["noto"]["chars"]))
    monkeypatch.setitem(names, "nickname", key)
    for prefix in ("fxemoji", "emojione"):
        icons = by_prefix[prefix]["icons"]
        icons["nickname"] = icons.pop(f"emoji-{key}")
    found = read()
    assert found.counts["fxemoji"] == (12, 12)
    assert found.counts["emojione"] == (12, 11)


def test_texts_have_the_name_and_some_keywords(read):
    found = read()
    key = next(iter(found.known))
    keywords = ("red", *(f"word {k}" for k in range(9)))
    known = {key: catalog.names.Emoji("red", keywords)}
    text = found._replace(known=known).text(key)
    assert text.split(", ") == ["red", *(f"word {k}" for k in range(6))]


def test_drawings_are_files_on_white_and_blank_ones_are_dropped(
    read, by_prefix, emoji_keys, tmp_path
):
    key = emoji_keys["val"][0]
    by_prefix["noto-v1"]["icons"][f"emoji-{key}"]["body"] = ""
    found = catalog.draw(read(), tmp_path, 32)
    rows = found.drawings
    assert len(rows) == 11 * 12 - 1
    assert "svg" not in rows
    assert rows["digest"].nunique() == len(rows)
    for image in rows["image"]:
        pixels = decoding.decode(tmp_path / image, 32)
        assert pixels.shape == (32, 32, 3)
        assert pixels.max() == 255


def test_licenses_are_those_of_the_drawings(read):
    licenses = {k: v["license"]["spdx"] for k, v in read().infos.items()}
    assert licenses["noto"] == "MIT"  # as the package says
    assert licenses["fxemoji"] == licenses["twemoji"] == "CC-BY-4.0"
    assert licenses["openmoji"] == "CC-BY-SA-4.0"


def test_missing_set_is_named(read, emoji_sets):
    emoji_sets[:] = [one for one in emoji_sets if one["prefix"] != "noto-v1"]
    with pytest.raises(UserError, match=r"no set noto-v1.*@iconify/json"):
        read()
