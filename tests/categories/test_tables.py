import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import tables
from mixer_jax.categories.click_log import ClickLog
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def samples():
    return tables.catalog(
        ClickLog(
            pd.DataFrame({"query_id": ["q0", "q1"], "image": ["/x/a", "/x/b"]}),
            pd.DataFrame(
                {
                    "item_id": ["i0", "i1"],
                    "image": ["/x/c", ""],
                    "text": ["one", "two"],
                }
            ),
            pd.DataFrame(),
        )
    )


def test_catalog_lists_queries_first(samples):
    assert samples["sample_id"].tolist() == ["q0", "q1", "i0", "i1"]
    assert samples["role"].tolist() == ["query"] * 2 + ["document"] * 2
    assert samples["text"].tolist() == ["", "", "one", "two"]


def test_found_categories_have_at_least_two_samples(samples):
    rows, left = tables.found_rows(samples, np.array([1, 0, 1, -1]))
    assert rows["sample_id"].tolist() == ["q0", "i0"]
    assert rows["category_id"].tolist() == ["found-00001"] * 2
    assert set(rows["split"]) == {"train"}
    assert left["sample_id"].tolist() == ["q1", "i1"]


def test_held_out_samples_are_never_training_rows(samples):
    truth = pd.DataFrame(
        {
            "sample_id": ["q0", "i0", "q1"],
            "category_id": ["a", "a", "b"],
            "split": ["test/forward", "test/forward", "train/forward"],
        }
    )
    known = tables.with_truth(samples, truth)
    assert known["truth"].tolist() == ["a", "b", "a", ""]
    rows, left = tables.found_rows(known, np.array([0, 1, 0, 1]))
    assert rows["sample_id"].tolist() == ["q1", "i1"]
    assert left.empty
    rows, left = tables.found_rows(known, np.array([1, 1, 0, 1]))
    assert rows["sample_id"].tolist() == ["q1", "i1"]
    with pytest.raises(UserError, match="No categories were found"):
        tables.found_rows(known, np.array([0, 0, 1, -1]))


def test_the_reason_mentions_a_held_out_match(samples):
    samples = samples.assign(held_out=[True, False, False, False])
    rows, left = tables.found_rows(samples, np.array([0, 1, 0, 1]))
    assert rows["sample_id"].tolist() == ["q1", "i1"]
    assert left["reason"].tolist() == ["its match is held out"]


def test_a_truth_of_other_samples_raises_an_error(samples):
    truth = pd.DataFrame(
        {"sample_id": ["z"], "category_id": ["a"], "split": ["train"]}
    )
    with pytest.raises(UserError, match="log's samples, such as 'q0'"):
        tables.with_truth(samples, truth)


def test_image_paths_become_relative(samples):
    inside = tables.relative_to(samples, "/x")
    assert inside["image"].tolist() == ["a", "b", "c", ""]
    with pytest.raises(
        UserError, match=r"is not inside /y.*such as --out=/x\."
    ):
        tables.relative_to(samples, "/y")


def test_moved_rows_keep_their_images(tmp_path):
    frame = pd.DataFrame({"image": ["images/a.png", ""]})
    table = tmp_path / "data" / "t.csv"
    both = tables.with_moved(frame, frame, table, tmp_path)
    wanted = [*frame["image"], "data/images/a.png", ""]
    assert both["image"].tolist() == wanted


def test_a_folder_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "disk" / "img").mkdir(parents=True)
    (tmp_path / "mnt").symlink_to(tmp_path / "disk")
    frame = pd.DataFrame({"image": [str(tmp_path / "mnt" / "img" / "a.png")]})
    for folder in ("disk", "mnt"):
        inside = tables.relative_to(frame, tmp_path / folder)
        assert inside["image"].tolist() == ["img/a.png"]


def test_images_of_a_linked_table_are_relative_to_the_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "store").mkdir()
    link = tmp_path / "data" / "truth.csv"
    link.symlink_to(tmp_path / "store" / "0a1b.csv")
    frame = pd.DataFrame({"image": ["a.png"]})
    moved = tables.with_moved(frame[:0], frame, link, tmp_path)
    assert moved["image"].tolist() == ["data/a.png"]


def test_a_misspelled_sample_in_the_truth_raises_an_error(samples):
    truth = pd.DataFrame(
        {"sample_id": ["q0", "Q1"], "category_id": "a", "split": "test"}
    )
    with pytest.raises(UserError, match=r"'q1' of .*, which has 'Q1'; use"):
        tables.with_truth(samples, truth)


def test_an_image_path_that_is_not_utf8_raises_an_error(tmp_path):
    name = "\udcff"
    frame = pd.DataFrame({"image": ["a.png", ""]})
    with pytest.raises(UserError, match=r"udcff.*rename the folder"):
        tables.with_moved(frame, frame, tmp_path / name / "t.csv", tmp_path)
    # The path relative to that folder is UTF-8.
    folder = tmp_path / name
    moved = tables.with_moved(frame, frame, folder / "t.csv", folder)
    assert moved["image"].tolist() == ["a.png", "", "a.png", ""]
