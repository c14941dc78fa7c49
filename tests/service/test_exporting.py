import pandas as pd
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import building, exporting
from mixer_jax.service.stores import place
from tests.service.stores import items


@pytest.fixture(params=["index", "index.db"])
def folder(request, tmp_path):
    given = [
        items.item("a", (1, 0), (0, 2), text="first", group="g", category="c"),
        items.item("b", 1, fields={"brand": "x", "price": 2, "new": True}),
    ]
    path = tmp_path / request.param
    items.make(path, *given).close()
    return path


def test_an_export_has_a_row_per_vector(folder, tmp_path):
    out = tmp_path / "all.parquet"
    assert exporting.export(folder, out) == 3
    rows = pd.read_parquet(out).sort_values("sample_id", ignore_index=True)
    assert rows.sample_id.tolist() == ["a", "a#1", "b"]
    assert rows.item_id.tolist() == ["a", "a", "b"]
    assert rows.text.tolist() == ["first", "first", ""]
    assert rows.price.tolist()[2] == 2
    assert rows.embedding[1].tolist() == [0, 1, 0, 0]


def test_an_export_can_be_built(folder, tmp_path):
    out = tmp_path / "all.parquet"
    exporting.export(folder, out)
    # Embeddings can be moved from one kind of store to the other.
    name = "index" if folder.suffix else "index.db"
    new, kinds = tmp_path / "new" / name, items.PROPERTIES["fields"]
    building.build(new, embeddings=out, kinds=kinds)
    with place.find(folder).open() as store:
        before = store.get(["a", "b"])
    with place.find(new).open() as store:
        after = store.get(["a", "b"])
    for one, other in zip(before, after, strict=True):
        assert one[2:] == other[2:]
        assert len(one.vectors) == len(other.vectors)


def test_large_numbers_are_exported(folder, tmp_path):
    with place.find(folder).open() as store:
        store.upsert([items.item("b", 1, fields={"price": 2**53 + 1})])
    exporting.export(folder, tmp_path / "all.parquet")
    rows = pd.read_parquet(tmp_path / "all.parquet")
    assert rows.price.dropna().tolist() == [2.0**53]


def test_an_invalid_destination_is_rejected(folder, tmp_path):
    with pytest.raises(UserError, match="does not end in"):
        exporting.export(folder, tmp_path / "all.csv")
    (tmp_path / "all.parquet").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        exporting.export(folder, tmp_path / "all.parquet")
    with pytest.raises(UserError, match="no index in"):
        exporting.export(tmp_path / "no", tmp_path / "new.parquet")
    assert not (tmp_path / "new.parquet").exists()
