import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo.emoji_sets import card, catalog


def test_card_counts_splits_and_sets(tmp_path):
    info = {
        "name": "Noto Emoji",
        "author": {"name": "Google Inc"},
        "license": {"title": "Apache 2.0", "spdx": "Apache-2.0"},
    }
    drawings = pd.DataFrame(
        [("noto", "1f431"), ("noto", "1f408")], columns=["set", "key"]
    )
    names = [one for sets in catalog.FAMILIES.values() for one in sets]
    drawn = catalog.Catalog(
        drawings,
        known={},
        infos={"noto": info},
        counts={name: catalog.Count(1234, 56) for name in names},
    )
    rows = [
        ("a", table.QUERY, "1f431", "test"),
        ("b", table.DOCUMENT, "1f431", "test"),
        ("c", table.DOCUMENT, "1f408", "test"),
        ("d", table.QUERY, "1f415", "train/forward"),
        ("e", table.DOCUMENT, "1f415", "train/reverse"),
    ]
    columns = ["sample_id", "role", "category_id", "split"]
    card.write(
        tmp_path,
        drawn,
        {"noto": pd.DataFrame(rows, columns=columns)},
        size=64,
        source="A source.",
        sheet="sheet.png",
    )
    text = (tmp_path / "CARD.md").read_text()
    assert "# Emoji vendors: 2 drawings of 2 emoji" in text
    line = "| noto.csv | 2 / 1 / 2 | 0 / 0 / 0 | 1 / 1 / 1 | openmoji |"
    assert line in text
    assert "| noto | noto | 1,234 | 56 | 2 |" in text
    assert "| noto-v1 | noto | 1,234 | 56 | 0 |" in text
    assert "A source." in text
    attribution = (tmp_path / "ATTRIBUTION.md").read_text()
    assert "| noto | Noto Emoji | Google Inc | Apache-2.0 | 2 |" in attribution
