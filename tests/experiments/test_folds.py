import pathlib

import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables import holdout, table
from mixer_jax.experiments import folds
from mixer_jax.runtime.errors import UserError


def test_data_sets_are_parsed():
    assert folds.parse("a=x.csv,b=some/folder") == {
        "a": pathlib.Path("x.csv"),
        "b": pathlib.Path("some/folder"),
    }
    for wrong in ("a", "=x.csv", "a=", "a=x,a=y", "a=x,", "a/b=x"):
        with pytest.raises(UserError, match="NAME=FOLDER_OR_TABLE"):
            folds.parse(wrong)


def test_each_table_of_a_folder_is_a_fold(tiny_table):
    other = tiny_table.with_name("two.csv")
    text = tiny_table.read_text()
    other.write_text(text.replace("blue paint", "navy paint"))
    first, second = folds.read({"colors": tiny_table.parent}, 0.0)["colors"]
    assert (first.name, second.name) == ("one", "two")
    assert first.content != second.content
    places = pd.concat([first.frame, second.frame])["place"]
    assert list(places) == list(range(48))
    assert set(first.split("val")["split"]) == {"val/forward", "val/reverse"}
    # Another picture is other content; a moved table is not.
    moved = tiny_table.rename(tiny_table.parents[1] / "moved.csv")
    ((again,),) = folds.read({"colors": moved}, 0.0).values()
    assert again.content == first.content
    image = tiny_table.parents[1] / "red_query_forward.png"
    image.write_bytes((image.parent / "gray_query_forward.png").read_bytes())
    ((again,),) = folds.read({"colors": moved}, 0.0).values()
    assert again.content != first.content


def samples(categories, split):
    rows = [
        {"sample_id": f"{role} {category}", "role": role, "text": "a"}
        | {"image": f"{role}.png", "category_id": category, "group": ""}
        | {"split": split}
        for category in categories
        for role in (table.QUERY, table.DOCUMENT)
    ]
    return pd.DataFrame(rows)


def test_validation_categories_are_derived():
    known = [f"c{number}" for number in range(100)]
    frame = pd.concat([samples(known, "train/a"), samples(["t"], "test/a")])
    found = folds.with_validation(frame, "table.csv")
    val = set(found["category_id"][found["split"] == "val/a"])
    assert val == {c for c in known if holdout.digest(c) % 10 == 1}
    assert len(found) == len(frame)
    train = set(found["category_id"][found["split"] == "train/a"])
    assert train == set(known) - val
    # A given validation split is kept, and other splits are left out.
    given = pd.concat([frame, samples(["v"], "val"), samples(["u"], "unused")])
    found = folds.with_validation(given, "table.csv")
    assert set(found["category_id"][found["split"] == "val"]) == {"v"}
    assert set(found["split"]) == {"train/a", "test/a", "val"}


def test_unsuitable_splits_are_explained():
    frame = pd.concat([samples("abcdef", "train"), samples("v", "val")])
    with pytest.raises(UserError, match="no samples of the split 'test'"):
        folds.with_validation(frame, "table.csv")
    frame = pd.concat([frame, samples("ab", "test")])
    with pytest.raises(UserError, match=r"2 categories of table\.csv are in"):
        folds.with_validation(frame, "table.csv")
    frame = pd.concat([samples("a", "train"), samples("b", "test")])
    with pytest.raises(UserError, match="enough categories to set some aside"):
        folds.with_validation(frame, "table.csv")


def test_split_without_an_answer_is_an_error(tiny_table, tmp_path):
    frame = table.read_table(tiny_table)
    query = frame["role"] == table.QUERY
    table.write_table(
        frame[(frame["split"] != "val/forward") | query], tiny_table
    )
    with pytest.raises(UserError, match=r"'val/forward' of .* has no query"):
        folds.read({"colors": tiny_table}, 0.0)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="has no sample table"):
        folds.read({"colors": empty}, 0.0)


def frame_of(rows):
    """Returns samples from (role, category, image, split)."""
    names = ["role", "category_id", "digest", "split"]
    return pd.DataFrame(rows, columns=names)


def test_pairs_share_category_and_part_but_no_image():
    rows = [
        (role, f"c{category}", f"{role}{category}{copy}", f"train/{part}")
        for category in range(7)
        for part in "ab"
        for role in (table.QUERY, table.DOCUMENT)
        for copy in range(2 + category % 2)
    ]
    rows += [(table.DOCUMENT, "c0", "query00", "train/a")]  # a query's image
    rows += [(table.QUERY, "lone", "x", "train/a")]
    rows += [(table.QUERY, "twin", "y", "train/a")]
    rows += [(table.DOCUMENT, "twin", "y", "train/a")]
    frame = frame_of(rows)
    sampler = folds.PairSampler(frame)
    assert len(sampler) == 7 * 2 * 2 + 3 * 2
    rng = np.random.default_rng(0)
    batches = list(sampler.draw(rng, steps=40, pairs=10))
    queries, documents = np.stack(batches, axis=1)
    assert queries.shape == documents.shape == (40, 10)
    left = frame.iloc[queries.ravel()].reset_index(drop=True)
    right = frame.iloc[documents.ravel()].reset_index(drop=True)
    assert set(left["role"]) == {table.QUERY}
    assert set(right["role"]) == {table.DOCUMENT}
    for name in ("category_id", "split"):
        assert (left[name] == right[name]).all()
    assert (left["digest"] != right["digest"]).all()
    # Every query but "lone" and "twin", as often as the others.
    counts = np.bincount(queries.ravel(), minlength=len(frame))
    usable = (frame["role"] == table.QUERY) & frame["category_id"].str.len().eq(
        2
    )
    assert (counts[~usable] == 0).all()
    assert np.ptp(counts[usable]) <= 1
    # Every document of a category can be drawn.
    drawn = set(documents.ravel())
    others = frame.index[(frame["role"] == table.DOCUMENT)]
    assert drawn == set(others) - {frame.index[-1]}


def test_no_pairs_are_an_error():
    rows = [
        (table.QUERY, "a", "x", "train"),
        (table.DOCUMENT, "a", "x", "train"),
    ]
    with pytest.raises(UserError, match="no pairs to train on"):
        folds.PairSampler(frame_of(rows))
