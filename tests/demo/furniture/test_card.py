import pandas as pd
import pytest

from mixer_jax.demo.furniture import card, catalog, folds
from mixer_jax.demo.furniture.settings import Settings


@pytest.fixture
def written(tmp_path, furniture_package):
    """Writes card and attribution of three products."""

    def write(left_out, **keys):
        root = furniture_package / "usr/share"
        catalogs = [catalog.read(root / f"{n}.sh3f") for n in ("First",)]
        rows = []
        for k, product in enumerate(catalogs[0].products[:3]):
            title, cell = product.title, (k, k == 1)
            row = (product.key, "document", "a.png", title, product.key, "g")
            rows.append((*row, "", *cell))
            row = (f"{k}", "query", "b.jpg", "", product.key, "g")
            rows.append((*row, "plain", *cell))
        columns = ["sample_id", "role", "image", "text", "category_id"]
        columns += ["group", "part", "fold", "validation"]
        samples = pd.DataFrame(rows, columns=columns)
        card.write(tmp_path, samples, catalogs, Settings(**keys), left_out)
        return [
            (tmp_path / name).read_text()
            for name in ("CARD.md", "ATTRIBUTION.md")
        ]

    return write


def test_card_counts_products_and_queries(written):
    text, _ = written({}, size=96)
    assert "# The furniture: 3 products, 3 queries\n" in text
    assert "fold0.csv ... fold4.csv" in text
    assert "96 x 96 pixels" in text
    assert "| `plain` | 3 | the product |" in text
    assert "mosaic` |" not in text
    assert "| 0 | 1 | 1 | 1 | 1 test/plain |" in text
    assert "| 1 | 2 | 0 | 1 | 1 test/plain |" in text
    assert f"| {folds.NUMBER - 1} | 2 | 1 | 0 |  |" in text
    assert "- First catalog: 15 products." in text
    assert "`apt-get download sweethome3d-furniture=1.8-1`" in text
    assert "## Left out\n\nNothing.\n" in text


def test_card_lists_what_was_left_out(written, tmp_path):
    left_out = {
        "blank view": [f"a/b, view {k}" for k in range(25)],
        "no reason": [],
        "model that cannot be rendered": ["a/c: empty"],
    }
    text, _ = written(left_out, package=tmp_path / "p.deb")
    assert f"The package {tmp_path / 'p.deb'}." in text
    assert "25 x blank view:\n\n- a/b, view 0\n" in text
    assert "- a/b, view 19\n- ... and 5 more\n" in text
    assert "1 x model that cannot be rendered:\n\n- a/c: empty\n" in text
    assert "no reason" not in text


def test_every_product_in_the_table_is_attributed(written):
    _, text = written({})
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines == [
        "| `first/alpine1` | Alpine | Ann |",
        "| `first/bottle1` | Bottle | Ann |",
        "| `first/candle1` | Candle | Ann |",
    ]
    assert "## First catalog\n\nLicense: License of First\n" in text
    assert "    The terms of First." in text
