"""Splits and roles of icons.

In the plain table, test differs from training only in its categories. In the
table of unseen vendors, the queries of `test` and `val` are also drawn by
vendors of whose icons training has none; the documents are other vendors'.
"""

import numpy as np
import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import digest
from mixer_jax.demo import icon_names
from mixer_jax.runtime.errors import UserError

_SPLITS = ("test", "val", "train")
_UNASKED = 0.1  # categories without queries, as a share of the others


def category_split(category_id: str, val: bool = True) -> str:
    """Returns the split of a category: a tenth is test.

    Args:
      category_id: the category.
      val: whether another tenth is val.
    """
    if icon_names.is_test(category_id):
        return "test"
    number = digest(icon_names.base_key(category_id))
    return "val" if val and number % 10 == 1 else "train"


def maker_split(maker: str) -> str:
    """Returns the split whose queries are a maker's icons: a tenth each.

    Args:
      maker: see `icon_names.maker`.
    """
    number = digest("unseen", maker) % 10
    return {0: "test", 1: "val"}.get(number, "train")


def assign(
    icons: pd.DataFrame, unseen: bool, left_out: dict[str, int]
) -> pd.DataFrame:
    """Assigns icons to splits.

    Adds the columns `split` and `role`, which is "" if a hash decides between
    query and document. With unseen vendors, icons that no split can use are
    dropped.

    Args:
      icons: one row per icon, with `category` and `maker`.
      unseen: whether the queries of test and val are from vendors of their own.
      left_out: number of dropped icons, by reason; one is added.
    """
    by_category = {
        key: category_split(key, unseen) for key in icons["category"].unique()
    }
    split = icons["category"].map(by_category)
    icons = icons.assign(split=split, role="")
    if not unseen:
        return icons
    by_maker = {one: maker_split(one) for one in icons["maker"].unique()}
    own = icons["maker"].map(by_maker)
    held_out = split != "train"
    icons.loc[held_out, "role"] = table.DOCUMENT
    icons.loc[held_out & (own == split), "role"] = table.QUERY
    # The test gallery may show val's vendors, but not the other way round.
    usable = (own == "train") | (own == split) | (split == "test")
    left_out["from a vendor held out for another split"] = int((~usable).sum())
    return icons[usable]


def with_categories_to_match(
    icons: pd.DataFrame, left_out: dict[str, int]
) -> pd.DataFrame:
    """Selects the icons of categories that the table can use.

    Adds the columns `query` and `asked`: whether the category has both queries
    and documents. Some of the categories with several documents and no query
    are kept, selected by hash.
    """
    icons = _with_roles(icons)
    asked = _has_both_roles(icons)
    if not asked.any():
        raise _nothing_to_match()
    count = icons["category"][asked].nunique()
    queries = icons.groupby("category")["query"].agg(["sum", "size"])
    alone = queries.index[(queries["sum"] == 0) & (queries["size"] > 1)]
    unasked = icon_names.shuffled(alone)[: round(_UNASKED * count)]
    kept = asked | icons["category"].isin(unasked)
    left_out["category without both queries and documents"] = int((~kept).sum())
    return icons[kept].assign(asked=asked[kept])


def still_to_match(
    icons: pd.DataFrame, left_out: dict[str, int]
) -> pd.DataFrame:
    """Selects the icons of the categories that can still be matched.

    Renews the column `query`, because categories may have lost vendors.
    Categories with queries need documents, and other categories two pictures.

    Raises:
      UserError: if no category has both.
    """
    icons = _with_roles(icons)
    pictures = icons.groupby("category")["category"].transform("size")
    kept = _has_both_roles(icons).where(icons["asked"], pictures > 1)
    left_out["category too small without the icons above"] = int((~kept).sum())
    if not icons["asked"][kept].any():
        raise _nothing_to_match()
    return icons[kept]


def distinct(icons: pd.DataFrame, left_out: dict[str, int]) -> pd.DataFrame:
    """Removes icons whose pixels equal those of another icon.

    Each category keeps one of several identical pictures, and training
    categories lose the pictures that also appear in held-out categories.
    """
    again = icons.duplicated(["category", "digest"])
    left_out["same pixels as another icon of the category"] = int(again.sum())
    icons = icons[~again]
    kept = without_seen(icons)
    count = len(icons) - len(kept)
    left_out["same pixels as a held-out icon"] = count
    return kept


def without_seen(rows: pd.DataFrame) -> pd.DataFrame:
    """Removes pictures from train that val or test has, and from val test's.

    Args:
      rows: pictures with `split` and `digest`.
    """
    for number, split in enumerate(_SPLITS):
        before = rows["split"].isin(_SPLITS[:number])
        seen = rows["digest"].isin(rows["digest"][before])
        rows = rows[(rows["split"] != split) | ~seen]
    return rows


def _with_roles(icons: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `query`: whether an icon is a query.

    Where `role` is "", a hash of category and vendor decides.
    """
    vendors = icons.groupby("category")["vendor"].unique()
    asking = {
        (key, vendor)
        for key, names in vendors.items()
        for vendor in icon_names.query_vendors(key, names)
    }
    pairs = zip(icons["category"], icons["vendor"], strict=True)
    chosen = np.array([pair in asking for pair in pairs], bool)
    given = icons["role"] == table.QUERY
    return icons.assign(query=given.where(icons["role"] != "", chosen))


def _has_both_roles(icons: pd.DataFrame) -> pd.Series:
    """Returns whether each icon's category has queries and documents."""
    return icons.groupby("category")["query"].transform("nunique") > 1


def _nothing_to_match() -> UserError:
    return UserError(
        "The package has no icon name that two vendors use, so there are no "
        "categories to match."
    )
