import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.demo import icon_card


@pytest.fixture
def written(tmp_path):
    rows = [
        ("ph:home", "query", "a.png", "", "home", "", "train"),
        ("mdi:home", "document", "b.png", "home", "home", "", "train"),
        ("noto:cat", "query", "c.png", "", "cat", "", "test"),
        ("ph:cat", "document", "d.png", "cat", "cat", "", "test"),
        ("mdi:cat", "document", "e.png", "cat", "cat", "", "test"),
    ]
    infos = {
        prefix: {
            "name": f"{prefix} icons",
            "author": {"name": "A | B", "url": "https://a.example"},
            "license": {"title": "Some license"} | license,
        }
        for prefix, license in (
            ("ph", {"spdx": "MIT", "url": "https://mit.example"}),
            ("mdi", {}),
            ("noto", {"spdx": "Apache-2.0"}),
            ("unused", {"spdx": "GPL-3.0"}),
        )
    }
    icon_card.write(
        tmp_path,
        pd.DataFrame(rows, columns=table.COLUMNS),
        infos,
        icon_card.Build(
            table="icons.csv",
            source="Somewhere.",
            size=64,
            permissive=True,
            unseen=False,
            left_out={"blank on white": 1234, "cannot be drawn": 12},
            faults=[f"set:icon{k}: reason" for k in range(12)],
        ),
    )
    names = ("CARD.md", "ATTRIBUTION.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    return [(tmp_path / name).read_text() for name in names]


def test_card_describes_the_table(written):
    card, _ = written
    assert "# The icons: 5 samples of 2 categories" in card
    assert "| test | 1 | 1 | 2 |\n| train | 1 | 1 | 1 |" in card
    assert "\nSomewhere.\n" in card
    assert "Only sets with permissive licenses" in card
    assert "| blank on white | 1,234 |" in card
    assert "- set:icon9: reason\n" in card
    assert "set:icon10" not in card
    assert "1 samples are from emoji sets" in card
    assert "partners):\n  `noto:`\n" in card
    assert "64 x 64 pixels" in card


def test_every_set_in_the_table_is_attributed(written):
    _, attribution = written
    lines = [line for line in attribution.splitlines() if line[:2] == "| "][1:]
    author = "[A \\| B](https://a.example)"
    assert lines == [
        f"| mdi | mdi icons | {author} | Some license | 2 |",
        f"| noto | noto icons | {author} | Apache-2.0 | 1 |",
        f"| ph | ph icons | {author} | [MIT](https://mit.example) | 2 |",
    ]
