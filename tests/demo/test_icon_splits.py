import hashlib
import itertools

import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.demo import icon_names, icon_splits
from mixer_jax.runtime.errors import UserError


def number(*words):
    return int(hashlib.sha1("\0".join(words).encode()).hexdigest(), 16) % 10


def some(split, kind, count=2):
    """Returns category or maker IDs of a split."""
    of = getattr(icon_splits, f"{kind}_split")
    names = (f"{kind}{k}" for k in range(1000))
    chosen = (name for name in names if of(name) == split)
    return list(itertools.islice(chosen, count))


CATEGORIES = {
    split: some(split, "category") for split in ("test", "val", "train")
}
MAKERS = {split: some(split, "maker", 3) for split in ("test", "val", "train")}


@pytest.fixture
def icons():
    """Every maker draws every category."""
    makers = [one for names in MAKERS.values() for one in names]
    rows = [
        (maker, maker, category, f"{maker}:{category}")
        for names in CATEGORIES.values()
        for category in names
        for maker in makers
    ]
    columns = ["vendor", "maker", "category", "digest"]
    return pd.DataFrame(rows, columns=columns)


def choose(icons, unseen):
    left_out = {}
    icons = icon_splits.assign(icons, unseen, left_out)
    icons = icon_splits.with_categories_to_match(icons, left_out)
    icons = icon_splits.distinct(icons, left_out)
    return icon_splits.still_to_match(icons, left_out), left_out


def test_tenths_are_held_out():
    split = {0: "test", 1: "val"}
    for name in ("home", "star", "moon", "cake", "door", "bird"):
        expected = split.get(number(name), "train")
        assert icon_splits.category_split(name) == expected
        assert icon_names.is_test(name) == (expected == "test")
        assert icon_splits.category_split(f"{name}-dark-skin-tone") == expected
        expected = split.get(number("unseen", name), "train")
        assert icon_splits.maker_split(name) == expected
    assert (
        icon_splits.category_split(CATEGORIES["val"][0], val=False) == "train"
    )


def test_queries_of_held_out_splits_are_from_unseen_makers(icons):
    found, left_out = choose(icons, True)
    for split in ("test", "val"):
        rows = found[found["split"] == split]
        assert set(rows["category"]) == set(CATEGORIES[split])
        assert set(rows["maker"][rows["query"]]) == set(MAKERS[split])
        documents = set(MAKERS["train"])
        documents |= set(MAKERS["val"]) if split == "test" else set()
        assert set(rows["maker"][~rows["query"]]) == documents
    train = found[found["split"] == "train"]
    assert set(train["maker"]) == set(MAKERS["train"])
    assert set(train["category"]) == set(CATEGORIES["train"])
    assert left_out["from a vendor held out for another split"] == 2 * 3 + 2 * 6


def test_plain_table_has_all_makers_in_both_splits(icons):
    found, _ = choose(icons, False)
    assert len(found) == len(icons)
    assert set(found["split"]) == {"train", "test"}
    for _, rows in found.groupby("category"):
        assert rows["query"].sum() == len(rows) // 2


def test_queries_without_an_answer_are_left_out(icons):
    test = CATEGORIES["test"][0]
    own = icons["maker"].isin(MAKERS["test"])
    found, left_out = choose(icons[(icons["category"] != test) | own], True)
    assert test not in set(found["category"])
    assert left_out["category without both queries and documents"] == 3
    # A category without queries is kept as distractors, but only a few are.
    found, _ = choose(icons[(icons["category"] != test) | ~own], True)
    assert test not in set(found["category"])


def test_roles_follow_the_vendors_that_are_left(icons):
    left_out = {}
    icons = icon_splits.assign(icons, False, left_out)
    icons = icon_splits.with_categories_to_match(icons, left_out)
    key = CATEGORIES["train"][0]
    asking = icons["query"] & (icons["category"] == key)
    found = icon_splits.still_to_match(icons[~asking], left_out)
    rows = found[found["category"] == key]
    assert rows["query"].sum() == len(rows) // 2 > 0


def test_pictures_of_held_out_splits_are_not_in_training(icons):
    test, val, train = (
        CATEGORIES[name][0] for name in ("test", "val", "train")
    )
    one, other = MAKERS["train"][:2]
    copies = {
        f"{one}:{train}": f"{other}:{test}",
        f"{other}:{train}": f"{one}:{val}",
        f"{one}:{val}": f"{one}:{test}",
    }
    icons["digest"] = icons["digest"].replace(copies)
    found, left_out = choose(icons, True)
    assert left_out["same pixels as a held-out icon"] == 2
    rows = found.set_index(["maker", "category"]).index
    assert (one, train) not in rows
    assert (one, val) not in rows
    assert (one, test) in rows


def test_without_matches_an_error_is_raised(icons):
    alone = icons[icons["maker"] == MAKERS["train"][0]]
    with pytest.raises(UserError, match="two vendors use"):
        choose(alone, False)
    assert table.QUERY not in set(icon_splits.assign(alone, True, {})["role"])
