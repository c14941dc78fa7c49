"""Tables that leave one family of vendors out of training, for testing."""

import pandas as pd

from mixer_jax.data.tables import holdout, table
from mixer_jax.demo import emoji, icon_names, icon_splits
from mixer_jax.demo.emoji_sets.catalog import FAMILIES, Catalog


def validation_family(family: str) -> str:
    """Returns the family whose drawings are the queries of `val`.

    It is the next one in alphabetical order, so that every family is left out
    for validation once.
    """
    families = sorted(FAMILIES)
    return families[(families.index(family) + 1) % len(families)]


def split_of(key: str) -> str:
    """Returns the split of an emoji: a tenth is test, and a tenth is val."""
    if emoji.is_test(key):
        return "test"
    val = holdout.digest(emoji.base_key(key)) % 10 == 1
    return "val" if val else "train"


def make_fold(catalog: Catalog, family: str) -> pd.DataFrame:
    """Returns the sample table that leaves one family out.

    In `test`, the queries are the family's drawings and the documents those of
    all other families. In `val`, the queries are the drawings of
    `validation_family`, and the documents those of the families in training,
    which has neither family. In `train`, each drawing is a query in one
    direction and a document in the other.

    Args:
      catalog: the drawings, with `image` and `digest`.
      family: the family of vendors that is left out.
    """
    rows = _distinct(_usable(catalog.drawings, family))
    train = rows["split"] == "train"
    samples = _samples(catalog, _with_roles(rows[train]))
    held_out = _samples(catalog, _answered(rows[~train]))
    return pd.concat(
        [table.with_both_directions(samples), held_out], ignore_index=True
    )


def _usable(drawings: pd.DataFrame, family: str) -> pd.DataFrame:
    """Returns the drawings that a fold uses; adds `split` and `query`."""
    asked = {"test": family, "val": validation_family(family)}
    unused = {"test": (), "val": {family}, "train": set(asked.values())}
    split = drawings["key"].map(split_of)
    pairs = list(zip(split, drawings["family"], strict=True))
    drawings = drawings.assign(
        split=split, query=[asked.get(a) == b for a, b in pairs]
    )
    return drawings[[b not in unused[a] for a, b in pairs]]


def _distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """Removes drawings whose pixels equal those of another drawing.

    Each emoji keeps one of several identical pictures, its query if there is
    one. Training loses the pictures that also appear in val or test, and val
    those of test.
    """
    rows = rows.sort_values("query", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["key", "digest"]).sort_index()
    return icon_splits.without_seen(rows)


def _answered(rows: pd.DataFrame) -> pd.DataFrame:
    """Removes queries of emoji without a document."""
    documents = rows["key"][~rows["query"]]
    return rows[~rows["query"] | rows["key"].isin(documents)]


def _with_roles(rows: pd.DataFrame) -> pd.DataFrame:
    """Chooses the training queries of each emoji that two families draw."""
    families = rows.groupby("key")["family"].unique()
    families = families[families.map(len) > 1]
    asking = {
        (key, family)
        for key, names in families.items()
        for family in icon_names.query_vendors(key, names)
    }
    pairs = zip(rows["key"], rows["family"], strict=True)
    rows = rows.assign(query=[pair in asking for pair in pairs])
    return rows[rows["key"].isin(families.index)]


def _samples(catalog: Catalog, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns rows of a sample table."""
    groups = emoji.groups()
    texts = {key: catalog.text(key) for key in rows["key"].unique()}
    return pd.DataFrame(
        {
            "sample_id": rows["set"] + ":" + rows["key"],
            "role": rows["query"].map(
                {True: table.QUERY, False: table.DOCUMENT}
            ),
            "image": rows["image"],
            "text": rows["key"].map(texts).where(~rows["query"], ""),
            "category_id": rows["key"],
            "group": rows["key"].map(groups).fillna(""),
            "split": rows["split"],
        },
        dtype=str,
    )
