import hashlib

import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.demo.emoji_sets import catalog, folds
from mixer_jax.demo.emoji_sets.names import Emoji

FAMILY = {s: f for f, sets in catalog.FAMILIES.items() for s in sets}


@pytest.fixture
def drawn(emoji_keys):
    """All emoji by all sets; each picture differs."""
    keys = [key for chosen in emoji_keys.values() for key in chosen]
    rows = [
        (one, FAMILY[one], key, f"images/{one}/{key}.png", f"{one}:{key}")
        for one in FAMILY
        for key in keys
    ]
    columns = ["set", "family", "key", "image", "digest"]
    return catalog.Catalog(
        drawings=pd.DataFrame(rows, columns=columns),
        known={key: Emoji(f"name {key}", ("word",)) for key in keys},
        infos={},
        counts={},
    )


def with_families(frame):
    """Adds the family and the split without its part."""
    sets = frame["sample_id"].str.removeprefix("reverse:").str.split(":").str[0]
    return frame.assign(
        family=sets.map(FAMILY), whole=frame["split"].str.split("/").str[0]
    )


def test_splits_follow_the_hash(emoji_keys):
    for split, keys in emoji_keys.items():
        for key in keys:
            number = int(hashlib.sha1(key.encode()).hexdigest(), 16) % 10
            assert split == {0: "test", 1: "val"}.get(number, "train")
            assert folds.split_of(f"{key}-1f3fb") == split


def test_every_family_is_left_out_for_validation_once():
    families = list(catalog.FAMILIES)
    others = [folds.validation_family(family) for family in families]
    assert sorted(others) == sorted(families)
    assert all(a != b for a, b in zip(families, others, strict=True))


@pytest.mark.parametrize("family", catalog.FAMILIES)
def test_held_out_families_and_categories_are_not_in_training(
    drawn, emoji_keys, family
):
    frame = folds.make_fold(drawn, family)
    table.validate(frame)
    frame = with_families(frame)
    other = folds.validation_family(family)
    query = frame["role"] == table.QUERY
    expected = {
        ("test", True): {family},
        ("test", False): set(catalog.FAMILIES) - {family},
        ("val", True): {other},
        ("val", False): set(catalog.FAMILIES) - {family, other},
        ("train", True): set(catalog.FAMILIES) - {family, other},
        ("train", False): set(catalog.FAMILIES) - {family, other},
    }
    found = frame.groupby(["whole", query])["family"].agg(set)
    assert found.to_dict() == expected
    for split, rows in frame.groupby("whole"):
        assert set(rows["category_id"]) == set(emoji_keys[split])
    assert (frame["text"] == "").equals(query)


def test_training_matches_families_in_both_directions(drawn):
    frame = with_families(folds.make_fold(drawn, "noto"))
    train = frame[frame["whole"] == "train"]
    roles = train.groupby("image")["role"].agg(sorted)
    assert (roles.map(tuple) == (table.DOCUMENT, table.QUERY)).all()
    for _, rows in train.groupby(["split", "category_id"]):
        query = rows["role"] == table.QUERY
        asking, answering = (
            set(rows["family"][query]),
            set(rows["family"][~query]),
        )
        assert len(asking) == len(answering) == 2
        assert not asking & answering
    # The halves differ between categories.
    forward = train[train["split"] == "train/forward"]
    halves = forward[forward["role"] == table.QUERY].groupby("category_id")
    assert len(set(halves["family"].agg(frozenset))) > 1
    document = train[train["role"] == table.DOCUMENT].iloc[0]
    assert document["text"] == f"name {document['category_id']}, word"


def test_identical_drawings_of_other_families_are_left_out(drawn, emoji_keys):
    rows = drawn.drawings.set_index(["set", "key"])
    test, val, train = (
        emoji_keys[name][0] for name in ("test", "val", "train")
    )
    rows.loc[("openmoji", test), "digest"] = f"noto:{test}"
    rows.loc[("twemoji", train), "digest"] = f"noto:{test}"
    rows.loc[("fluent-emoji", val), "digest"] = f"noto:{test}"
    rows.loc[("fluent-emoji", train), "digest"] = f"openmoji:{val}"
    rows.loc[("fluent-emoji-flat", train), "digest"] = f"twemoji:{val}"
    drawings = rows.reset_index()[list(drawn.drawings.columns)]
    before = folds.make_fold(drawn, "noto")
    after = folds.make_fold(drawn._replace(drawings=drawings), "noto")
    lost = set(before["sample_id"]) - set(after["sample_id"])
    assert {one.removeprefix("reverse:") for one in lost} == {
        f"openmoji:{test}",
        f"twemoji:{train}",
        f"fluent-emoji:{val}",
        f"fluent-emoji:{train}",
        f"fluent-emoji-flat:{train}",
    }


def test_training_emoji_of_one_family_are_left_out(drawn, emoji_keys):
    key = emoji_keys["train"][0]
    rows = drawn.drawings
    kept = (rows["key"] != key) | rows["family"].isin(["noto", "fluent"])
    frame = folds.make_fold(drawn._replace(drawings=rows[kept]), "noto")
    assert key not in set(frame["category_id"])


def test_queries_without_a_document_are_left_out(drawn, emoji_keys):
    rows = drawn.drawings
    for split in ("test", "val"):
        key = emoji_keys[split][0]
        # These families draw the queries of test and val.
        asked = rows["family"].isin(["noto", "openmoji"])
        rows = rows[(rows["key"] != key) | asked]
    frame = folds.make_fold(drawn._replace(drawings=rows), "noto")
    left = frame.groupby("category_id")["role"].agg(set)
    assert left[emoji_keys["test"][0]] == {table.QUERY, table.DOCUMENT}
    assert emoji_keys["val"][0] not in left
