import numpy as np
import pandas as pd
import pytest

from mixer_jax.runtime.tabular import boxes, references


def rows(*cells, image="a.jpg", dtype="str"):
    frame = pd.DataFrame(cells, columns=boxes.COLUMNS, dtype=dtype)
    return frame.assign(image=pd.Series([image] * len(frame), dtype=dtype))


@pytest.mark.parametrize("dtype", [object, "str"])
def test_boxes_become_a_part_of_the_name(dtype):
    frame = rows(
        ("10", "20", "300", "400"),
        ("", "", "", ""),
        ("0.5", "-3", "2.1", "7.0"),
        dtype=dtype,
    )
    joined = boxes.join(frame)
    names = ["a.jpg#box=10,20,300,400", "a.jpg", "a.jpg#box=0,0,3,7"]
    assert joined["image"].tolist() == names
    assert joined["image"].dtype == frame["image"].dtype
    assert list(joined) == ["image"]
    assert not any(check.broken(frame).any() for check in boxes.CHECKS)
    assert boxes.join(frame[1:2])["image"].tolist() == ["a.jpg"]
    found = [references.split(name) for name in names]
    wanted = ["10,20,300,400", "", "0,0,3,7"]
    assert found == [("a.jpg", box) for box in wanted]


@pytest.mark.parametrize(
    ("cells", "image", "column", "message"),
    [
        (("1", "", "3", "4"), "a.jpg", "x1", "needs all of x1, y1, x2"),
        (("1", "2", "x", "4"), "a.jpg", "x2", "not a number of pixels"),
        (("1", "nan", "3", "4"), "a.jpg", "y1", "not a number of pixels"),
        (("1", "2", "3", "inf"), "a.jpg", "y2", "not a number of pixels"),
        (("3", "2", "3", "4"), "a.jpg", "x2", "must have x1 < x2 and 0 < x2"),
        (("1", "9", "3", "4"), "a.jpg", "y2", "must have y1 < y2 and 0 < y2"),
        (("-5", "1", "0", "4"), "a.jpg", "x2", "0 < x2, but x2 is"),
        (("1", "2", "3", "4"), "", "image", "needs an image"),
        (("1", "2", "3", "4"), "a#box=1,2,3,4", "image", "of its own"),
    ],
)
def test_broken_boxes_are_found(cells, image, column, message):
    good = rows(("1", "2", "3", "4"), ("", "", "", ""))
    frame = pd.concat([good, rows(cells, image=image)], ignore_index=True)
    found = [check for check in boxes.CHECKS if check.broken(frame).any()]
    (broken,) = found
    assert broken.broken(frame).tolist() == [False, False, True]
    assert broken.column == column
    assert message in broken.message


def test_rows_without_the_columns_break_no_rule():
    frame = rows(("", "", "", "")).drop(columns=list(boxes.COLUMNS))
    for check in boxes.CHECKS:
        np.testing.assert_array_equal(check.broken(frame), [False])
