import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import upkeep
from mixer_jax.service.stores.local import LocalStore
from tests.service.stores import items


@pytest.fixture
def folder(tmp_path):
    given = [items.item(f"{i} é", 1, i) for i in range(9)]
    items.make(tmp_path / "index", *given, storage="int8").close()
    return tmp_path / "index"


def test_items_of_lists_are_deleted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "_IDS", 2)
    file = tmp_path / "ids.txt"
    file.write_text("1 é\n2 é\n\nno\n1 é\n", encoding="utf-8")
    assert upkeep.delete(folder, ["3 é", "4 é"], file) == (4, 1)
    with LocalStore.open(folder) as store:
        assert store.count() == 5
    file.write_bytes(b"\xff")
    for given, message in (
        ({"file": file}, "ids.txt cannot be read"),
        ({"file": tmp_path / "no"}, "No such file"),
        ({}, "nothing to delete; name items with --id=ID"),
    ):
        with pytest.raises(UserError, match=message):
            upkeep.delete(folder, **given)


def test_an_index_is_described(folder):
    text = "\n".join(upkeep.describe(folder))
    for line in (
        "items:       9",
        "vectors:     9 with 4 elements",
        "stored as:   int8, cosines off by at most 0.00",
        "model:       unknown",
        "fingerprint: model",
        "fields:      brand:text,price:number,new:flag",
        "MB in items-1.sqlite",
    ):
        assert line in text
