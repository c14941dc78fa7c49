import collections

import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.demo.furniture import folds


@pytest.mark.parametrize(
    ("title", "stem"),
    [
        ("Armchair", "armchair"),
        ("Small upper cabinet", "upper cabinet"),
        ("Blue pine under snow", "pine"),
        ("Plate, glasses and cutlery", "plate"),
        ("Parking slot 45°", "parking slot"),
        ("Concept Sedan 02", "concept sedan"),
        ("Rounded type C plug", "plug"),
        ("Wall dimmer switch", "plug"),
        ("Captain's bed", "captain's bed"),
        ("Double-hung window", "double-hung window"),
        ("Light", "light"),
        ("With", "with"),
        ("16:9", "16:9"),
    ],
)
def test_stem_is_the_title_without_variants(title, stem):
    assert folds.stem(title) == stem


def test_cells_are_drawn_by_hash():
    cells = [folds.cell(f"product {k}") for k in range(2000)]
    counts = collections.Counter(cell.fold for cell in cells)
    assert set(counts) == set(range(folds.NUMBER))
    assert min(counts.values()) > 330
    assert 150 < sum(cell.validation for cell in cells) < 250
    assert folds.cell("armchair") == folds.Cell(*GOLDEN)


GOLDEN = (2, False)


@pytest.fixture
def samples():
    """Ten products, two per fold, one of which is for validation."""
    rows = []
    for k in range(10):
        key, cell = f"p{k}", (k % 5, k >= 5)
        row = (key, "document", f"{key}.png", key, key, "g", "", *cell)
        rows.append(row)
        for part in ("plain", "mosaic"):
            image = f"{key}-{part}.jpg"
            row = (f"{key}/{part}", "query", image, "", key, "g", part, *cell)
            rows.append(row)
    columns = [c for c in table.COLUMNS if c != "split"]
    return pd.DataFrame(rows, columns=[*columns, "part", "fold", "validation"])


def products(frame, split, role=None):
    chosen = table.select(frame, split)
    if role:
        chosen = chosen[chosen["role"] == role]
    return set(chosen["category_id"])


def test_every_product_is_tested_once(samples):
    tested = []
    for fold in range(folds.NUMBER):
        frame = folds.split(samples, fold)
        table.validate(frame)
        assert list(frame.columns) == list(table.COLUMNS)
        train, val, test = (
            products(frame, name) for name in ("train", "val", "test")
        )
        assert not train & val | train & test | val & test
        assert len(train | val | test) == 10
        assert val == {f"p{k}" for k in range(5, 10)} - test
        tested += sorted(test)
    assert sorted(tested) == [f"p{k}" for k in range(10)]


def test_parts_have_queries_of_one_kind_and_all_documents(samples):
    frame = folds.split(samples, 3)
    assert table.parts(frame, "test") == ["mosaic", "plain"]
    assert table.parts(frame, "train") == ["mosaic", "plain"]
    for part in ("mosaic", "plain"):
        rows = table.select(frame, f"test/{part}")
        queries = rows[rows["role"] == "query"]
        assert set(queries["image"]) == {f"p3-{part}.jpg", f"p8-{part}.jpg"}
        assert products(rows, "test", "document") == {"p3", "p8"}


def test_galleries_have_the_documents_of_the_other_products(samples):
    frame = folds.split(samples, 0)
    for gallery, split in (("gallery", "test"), ("val-gallery", "val")):
        assert table.parts(frame, gallery) == ["mosaic", "plain"]
        rows = table.select(frame, f"{gallery}/plain")
        assert set(rows["role"]) == {"document"}
        assert not set(rows["category_id"]) & products(frame, split)
    everything = products(frame, "gallery") | products(frame, "test")
    assert len(everything) == 10
    assert products(frame, "val-gallery") == products(frame, "train")


def test_training_split_has_each_query_once(samples):
    train = table.select(folds.split(samples, 1), "train")
    queries = train[train["role"] == "query"]
    assert queries["image"].is_unique
    assert len(queries) == 2 * len(products(train, "train"))
