import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import click_log as log_lib
from mixer_jax.categories import outcome
from mixer_jax.data.tables import table
from mixer_jax.runtime.errors import UserError
from tests.shop import CATEGORIES, ITEMS, QUERIES

COUNT = CATEGORIES * (QUERIES + ITEMS)


def read(root, truth=True):
    known = table.read_table(root / "data/table.csv") if truth else None
    return outcome.read(root, outcome.find_log(root), known)


def test_labels_match_the_written_tables(shop):
    found = read(shop)
    frame = table.select(table.read_table(shop / "found.csv"), "train/forward")
    wanted = frame.set_index("sample_id")["category_id"]
    for sample, label in zip(
        found.samples["sample_id"], found.labels, strict=True
    ):
        if label >= 0:
            assert found.names[label] == wanted[sample]
        else:
            assert sample not in wanted.index
    left = pd.read_csv(shop / "unassigned.csv")["sample_id"]
    alone = found.samples["sample_id"][found.labels == outcome.UNASSIGNED]
    assert set(alone) == set(left)
    assert (found.labels >= 0).sum() == len(wanted) > COUNT / 2
    held_out = found.labels == outcome.HELD_OUT
    assert (held_out == found.samples["held_out"]).all()
    assert held_out.sum() == COUNT / 4


def test_features_and_clicks_match_the_samples(shop):
    found = read(shop)
    assert len(found.query_labels) == CATEGORIES * QUERIES
    assert len(found.item_labels) == CATEGORIES * ITEMS
    with np.load(shop / "features.npz") as kept:
        image = kept["image"]
    count = len(found.query_labels)
    assert (found.features.query_image == image[:count]).all()
    assert (found.features.item_image == image[count:]).all()
    log = log_lib.read_folder(shop / "log")
    pd.testing.assert_frame_equal(found.log.clicks, log.clicks)
    assert set(found.later.columns) == set(log.clicks.columns)
    assert len(found.later)
    assert not found.later.equals(log.clicks)


def test_parquet_folders_match_csv(own_shop):
    wanted = read(own_shop)
    for name in ("queries", "items", "clicks", "clicks_later"):
        path = own_shop / "log" / f"{name}.csv"
        parts = own_shop / "log" / f"{name}.parquet"
        parts.mkdir()
        pd.read_csv(path).to_parquet(parts / "part-0.parquet")
        path.unlink()
    assert outcome.find_log(own_shop) == own_shop / "log"
    found = read(own_shop)
    assert (found.labels == wanted.labels).all()
    pd.testing.assert_frame_equal(found.later, wanted.later)


def test_no_sample_may_be_unassigned(own_shop):
    path = own_shop / "unassigned.csv"
    path.write_text(path.read_text().split("\n")[0] + "\n")
    assert outcome.UNASSIGNED not in read(own_shop).labels


def test_held_out_samples_are_known_without_a_truth(shop):
    found, wanted = read(shop, truth=False), read(shop)
    assert (found.labels == wanted.labels).all()
    assert "truth" not in found.samples


def test_unreadable_samples_are_left_out(own_shop):
    """Simulates a query skipped by categorize."""
    found = pd.read_csv(own_shop / "found.csv", keep_default_na=False)
    left = pd.read_csv(own_shop / "unassigned.csv", keep_default_na=False)
    gone = read(own_shop).samples["sample_id"][2]
    for frame, name in ((found, "found"), (left, "unassigned")):
        frame = frame[frame["sample_id"] != gone]
        frame.to_csv(own_shop / f"{name}.csv", index=False)
    path = own_shop / "features.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    for name in ("image", "ids"):
        arrays[name] = np.delete(arrays[name], 2, axis=0)
    np.savez(path, **arrays)
    outside = read(own_shop)
    assert len(outside.samples) == COUNT - 1
    assert gone not in set(outside.samples["sample_id"])
    assert outside.features.query_image.shape[0] == CATEGORIES * QUERIES - 1
    arrays["image"] = arrays["image"][:-1]
    np.savez(path, **arrays)
    assert read(own_shop).features is None
    path.unlink()
    assert read(own_shop).features is None


def test_missing_files_raise_an_error(own_shop, tmp_path):
    with pytest.raises(UserError, match="no click log in"):
        outcome.find_log(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no found\.csv"):
        outcome.read(tmp_path, own_shop / "log")
    for name in ("queries", "clicks", "clicks_later"):
        path = own_shop / "log" / f"{name}.csv"
        lines = path.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("q1-0")]
        path.write_text("\n".join(kept) + "\n")
    with pytest.raises(UserError, match="has a sample 'q1-0' that is not in"):
        read(own_shop)
    (own_shop / "unassigned.csv").unlink()
    with pytest.raises(UserError, match=r"unassigned\.csv is missing"):
        read(own_shop)


def test_a_log_in_the_same_folder_is_found(own_shop):
    for path in (own_shop / "log").glob("*.csv"):
        path.rename(own_shop / path.name)
    assert outcome.find_log(own_shop) == own_shop
    (own_shop / "clicks_later.csv").unlink()
    known = table.read_table(own_shop / "data/table.csv")
    queries = pd.read_csv(own_shop / "queries.csv")
    moved = queries["image"].str.removeprefix("../")
    queries.assign(image=moved).to_csv(own_shop / "queries.csv", index=False)
    assert outcome.read(own_shop, own_shop, known).later is None


def test_inconsistent_tables_raise_an_error(own_shop):
    path, left = own_shop / "found.csv", own_shop / "unassigned.csv"
    frame = table.read_table(path)
    first = table.select(frame, "train/forward").iloc[[0]]

    def assert_refused(changed, message):
        changed.to_csv(path, index=False)
        with pytest.raises(UserError, match=message):
            read(own_shop)

    again = first.assign(category_id="found-00099")
    assert_refused(
        pd.concat([frame, again]),
        f"line {len(frame) + 2}, column sample_id: .* is already in an earlier",
    )
    none = frame["category_id"].where(
        frame["sample_id"] != first["sample_id"].iloc[0], ""
    )
    assert_refused(
        frame.assign(category_id=none), "column category_id: .*is empty"
    )
    assert_refused(frame.assign(split="test"), "has no rows in the split train")
    frame.to_csv(path, index=False)
    pd.concat([pd.read_csv(left), first[["sample_id"]]]).to_csv(left)
    with pytest.raises(UserError, match=r"in both .*found\.csv and unassigned"):
        read(own_shop)


@pytest.mark.parametrize("name", ["queries", "items"])
def test_features_in_another_order_are_ignored(own_shop, name):
    assert read(own_shop).features is not None
    path = own_shop / "log" / f"{name}.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *reversed(rows)]))
    assert read(own_shop).features is None


def test_features_without_ids_are_ignored(own_shop):
    path = own_shop / "features.npz"
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in kept if name != "ids"}
    np.savez(path, **arrays)
    assert read(own_shop).features is None


def test_damaged_features_are_ignored(own_shop):
    path = own_shop / "features.npz"
    path.write_bytes(path.read_bytes()[:-40])
    assert read(own_shop).features is None
