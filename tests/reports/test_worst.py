import numpy as np
import pandas as pd
import pytest

from mixer_jax.reports import worst

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, -1])
TRUTH = np.array(["a", "a", "b", "b", "b", "c", "", "a"])


def test_purity_counts_known_samples():
    found = worst.purity(LABELS, TRUTH)
    assert found.leading.to_dict() == {0: "a", 1: "b", 2: "c"}
    assert found.share.to_dict() == {0: pytest.approx(2 / 3), 1: 1.0, 2: 1.0}


def test_choose_returns_lowest_scores_and_larger_ones_first():
    score = pd.Series({0: 0.5, 1: 0.5, 2: np.nan, 3: 0.1, 4: 0.9})
    sizes = np.array([2, 7, 9, 2, 2])
    assert worst.choose(score, sizes) == [3, 1, 0, 4]
    assert worst.choose(score, sizes, 2) == [3, 1]
    assert worst.choose(pd.Series(dtype=float), sizes) == []


def test_sheet_marks_samples_of_other_categories():
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(8)],
            "role": ["query"] + ["document"] * 7,
            "image": ["", "/x/1.png", "/x/2.png"] + [""] * 5,
            "text": ["", "one", ""] + [""] * 5,
            "truth": TRUTH,
        }
    )
    sheet = worst.make(0, "found-0", ("3 samples",), samples, LABELS, "a", str)
    assert [p.image for p in sheet.pictures] == ["", "/x/1.png", "/x/2.png"]
    assert [p.name for p in sheet.pictures] == ["s0", "one", "s2"]
    assert [p.right for p in sheet.pictures] == [True, True, False]
    assert [p.query for p in sheet.pictures] == [True, False, False]
    unknown = worst.make(2, "found-2", (), samples, LABELS, "c", str)
    assert [p.right for p in unknown.pictures] == [True, None]
    blind = worst.make(
        0, "found-0", (), samples.drop(columns="truth"), LABELS, shrink=str
    )
    assert {p.right for p in blind.pictures[:1]} == {None}


def test_sheet_of_a_large_category_is_truncated():
    count = worst.SHOWN + 5
    samples = pd.DataFrame(
        {"sample_id": "s", "role": "query", "image": "", "text": "t"},
        index=range(count),
    )
    sheet = worst.make(0, "c", (), samples, np.zeros(count, int))
    assert (len(sheet.pictures), sheet.more) == (worst.SHOWN, 5)
