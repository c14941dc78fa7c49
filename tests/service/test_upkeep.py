import shutil

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


def test_the_model_of_an_index_is_described(tmp_path, color_run):
    run, place = color_run / "stage2", tmp_path / "index"
    given = {"model": ["../run/stage2"], "step": 4000}
    items.make(place, **given).close()
    lines = upkeep.describe(place)
    assert f"model:       {run}" in lines
    assert "step:        4,000" in lines
    assert "stored as:   f32" in lines
    shutil.move(run, tmp_path / "gone")
    assert f"model:       missing from {run}" in upkeep.describe(place)
    items.make(tmp_path / "hub", model=["hub://a/b"], step=0).close()
    lines = upkeep.describe(tmp_path / "hub")
    assert "model:       hub://a/b" in lines
    assert "step:        none (published weights)" in lines


def test_an_index_returns_to_its_last_generation(tmp_path):
    place = tmp_path / "index"
    items.make(place, items.item("old", 1), fingerprint="").close()
    with pytest.raises(UserError, match="no earlier generation"):
        upkeep.roll_back(place)
    new = LocalStore.draft(place, items.PROPERTIES | {"fingerprint": "new"})
    new.upsert([items.item("new", 1)])
    new.publish(keep=1)
    assert "earlier:     items-1.sqlite" in upkeep.describe(place)
    message = upkeep.roll_back(place)
    assert "returned to items-1.sqlite, with 1 item " in message
    with LocalStore.open(place) as store:
        assert store.existing(["old", "new"]) == {"old"}
    # A writer that has not noticed yet must not lose what it writes.
    with pytest.raises(UserError, match="open it again to change it"):
        new.upsert([items.item("more", 1)])
    new.close()


def test_a_generation_without_its_model_is_not_returned_to(folder, tmp_path):
    with LocalStore.draft(folder, items.PROPERTIES) as new:
        new.publish(keep=1)
    with pytest.raises(UserError, match="does not record where its model"):
        upkeep.roll_back(folder)
    with LocalStore.open(folder) as store:
        assert store.path.name == "items-2.sqlite"
