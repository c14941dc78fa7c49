import pandas as pd
import pytest

from mixer_jax.data.tables import found, table
from mixer_jax.runtime.errors import UserError

ROWS = pd.DataFrame(
    {
        "sample_id": ["q", "d"],
        "category_id": "found-0",
        "role": ["query", "document"],
        "image": ["q.png", "d.png"],
        "text": ["", "a shoe"],
        "group": "",
        "split": "train",
    }
)


@pytest.fixture
def truth(tmp_path):
    """A table of true categories in a subfolder, with one test category."""
    folder = tmp_path / "true"
    folder.mkdir()
    rows = ROWS.assign(
        sample_id=["tq", "td"], category_id="shoe", split=["test", "test"]
    )
    for name in rows["image"]:
        (folder / name).write_bytes(b"picture")
    rows.to_csv(folder / "table.csv", index=False)
    return table.read_table(folder / "table.csv")


def test_test_rows_of_the_truth_follow_the_training_rows(truth, tmp_path):
    rows = found.with_test_rows(ROWS, truth, tmp_path)
    assert rows["sample_id"].tolist() == ["q", "d", "tq", "td"]
    assert rows["split"].tolist() == ["train", "train", "test", "test"]
    assert rows["image"].tolist()[2:] == ["true/q.png", "true/d.png"]


def test_each_image_is_query_and_document_without_a_truth(tmp_path):
    rows = found.with_test_rows(ROWS, None, tmp_path)
    assert set(rows["split"]) == {"train/forward", "train/reverse"}
    assert len(rows) > len(ROWS)


def test_truth_that_holds_out_all_samples_raises_an_error(truth, tmp_path):
    samples = ROWS.assign(held_out=True)
    with pytest.raises(UserError, match="no training samples remain"):
        found.check(samples, truth, tmp_path)
    found.check(ROWS.assign(held_out=False), truth, tmp_path)


def test_invalid_row_raises_an_error(tmp_path):
    with pytest.raises(UserError, match="Sample 'd' of the found table"):
        found.check(ROWS.assign(image=["q.png", "~/d.png"]), None, tmp_path)


def test_new_table_must_not_replace_the_truth(tmp_path):
    path = tmp_path / found.FOUND
    path.write_text("the truth")
    with pytest.raises(UserError, match=r"--truth=.* would be replaced"):
        found.check_out(tmp_path, str(path))
    found.check_out(tmp_path, None)
