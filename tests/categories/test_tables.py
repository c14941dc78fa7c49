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


def test_found_rows_have_company(samples):
    rows, left = tables.found_rows(samples, np.array([1, 0, 1, -1]))
    assert rows["sample_id"].tolist() == ["q0", "i0"]
    assert rows["category_id"].tolist() == ["found-00001"] * 2
    assert set(rows["split"]) == {"train"}
    assert left["sample_id"].tolist() == ["q1", "i1"]


def test_held_out_samples_never_train(samples):
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
    with pytest.raises(UserError, match="No category was found"):
        tables.found_rows(known, np.array([0, 0, 1, -1]))


def test_a_match_that_is_held_out_is_said(samples):
    samples = samples.assign(held_out=[True, False, False, False])
    rows, left = tables.found_rows(samples, np.array([0, 1, 0, 1]))
    assert rows["sample_id"].tolist() == ["q1", "i1"]
    assert left["reason"].tolist() == ["its match is held out"]


def test_a_foreign_truth_is_refused(samples):
    truth = pd.DataFrame(
        {"sample_id": ["z"], "category_id": ["a"], "split": ["train"]}
    )
    with pytest.raises(UserError, match="no sample 'q0'"):
        tables.with_truth(samples, truth)


def test_paths_become_relative(samples):
    inside = tables.relative_to(samples, "/x")
    assert inside["image"].tolist() == ["a", "b", "c", ""]
    with pytest.raises(
        UserError, match=r"is not inside /y.*as with --out=/x\."
    ):
        tables.relative_to(samples, "/y")


def test_rows_move_with_their_images(tmp_path):
    frame = pd.DataFrame({"image": ["images/a.png", ""]})
    table = tmp_path / "data" / "t.csv"
    both = tables.with_moved(frame, frame, table, tmp_path)
    wanted = [*frame["image"], "data/images/a.png", ""]
    assert both["image"].tolist() == wanted


def test_a_folder_may_have_two_names(tmp_path):
    (tmp_path / "disk" / "img").mkdir(parents=True)
    (tmp_path / "mnt").symlink_to(tmp_path / "disk")
    frame = pd.DataFrame({"image": [str(tmp_path / "mnt" / "img" / "a.png")]})
    for folder in ("disk", "mnt"):
        inside = tables.relative_to(frame, tmp_path / folder)
        assert inside["image"].tolist() == ["img/a.png"]


def test_rows_of_a_table_that_is_a_link_move_with_the_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "store").mkdir()
    link = tmp_path / "data" / "truth.csv"
    link.symlink_to(tmp_path / "store" / "0a1b.csv")
    frame = pd.DataFrame({"image": ["a.png"]})
    moved = tables.with_moved(frame[:0], frame, link, tmp_path)
    assert moved["image"].tolist() == ["data/a.png"]


def test_a_truth_that_spells_a_sample_otherwise_is_refused(samples):
    truth = pd.DataFrame(
        {"sample_id": ["q0", "Q1"], "category_id": "a", "split": "test"}
    )
    with pytest.raises(UserError, match=r"'q1' of .*, which has 'Q1'; use"):
        tables.with_truth(samples, truth)


def test_an_image_whose_path_is_not_text_is_refused(tmp_path):
    name = "\udcff"
    frame = pd.DataFrame({"image": ["a.png", ""]})
    with pytest.raises(UserError, match=r"udcff.*rename the folder"):
        tables.with_moved(frame, frame, tmp_path / name / "t.csv", tmp_path)
    # Relative to that folder, the path is text.
    folder = tmp_path / name
    moved = tables.with_moved(frame, frame, folder / "t.csv", folder)
    assert moved["image"].tolist() == ["a.png", "", "a.png", ""]
