"""Reports of found categories with and without truth and later clicks."""

import json
import re

import pandas as pd
import pytest

from mixer_jax.experiments import granularity
from mixer_jax.reports import categories
from mixer_jax.runtime.errors import UserError
from tests.reports.test_page import loads

SWEEP = {
    "exam": granularity.TRUTH,
    "queries": 30,
    "items": 30,
    "true_categories": 0.81,
    "used": {"threshold": 0.4, "neighbors": 10, "identical_at_1": 0.7},
    "points": [
        {"threshold": 0.35, "neighbors": 10, "identical_at_1": 0.7}
        | {"bcubed_f1": 0.6},
        {"threshold": 0.55, "neighbors": 10, "identical_at_1": 0.75}
        | {"bcubed_f1": 0.5},
        {"threshold": 0.35, "neighbors": 5, "identical_at_1": None}
        | {"bcubed_f1": 0.4},
    ],
}


def merge_two(shop):
    """Merges two categories; returns the table and their common ID."""
    frame = pd.read_csv(shop / "found.csv", dtype=str).fillna("")
    found = frame["category_id"].str.startswith("found-")
    first, second = sorted(set(frame["category_id"][found]))[:2]
    frame.loc[frame["category_id"] == second, "category_id"] = first
    frame.to_csv(shop / "found.csv", index=False)
    return frame, first


def test_page_with_truth(own_shop):
    merge_two(own_shop)
    (own_shop / "sweep.json").write_text(json.dumps(SWEEP))
    path = categories.build(own_shop, truth=own_shop / "data/table.csv")
    assert path == own_shop / "report" / "index.html"
    html = path.read_text()
    assert loads(html) == []
    for text in (
        "B-cubed F1",
        "every sample alone",
        "Silhouette",
        "later clicks on new pairs",
        "60 samples are held out",
        "(dashed vertical line: eps 0.60, k 10) reach 70.0%",
        "the best (eps 0.45, k 10) 75.0%",
        "a difference of 15.8 percentage points may be due to chance",
        "on the true categories, 81.0%",
        "Painted by nobody, CC0.",
        "simulated",
        "The least pure of",
    ):
        assert text in html, text
    assert 'class="missing"' not in html
    assert "search 30 items" in html
    assert re.search(
        r"Gini coefficient is <strong>0\.\d\d</strong> for items", html
    )
    assert "built-in" not in html, "a dict method is shown as a figure"
    for target in re.findall(r'<a href="#(\w+)"', html):
        assert f'id="{target}"' in html


def test_worst_categories_are_impure(own_shop):
    frame, first = merge_two(own_shop)
    truth = own_shop / "data/table.csv"
    html = categories.build(own_shop, truth=truth).read_text()
    worst = html[html.index('id="worst"') :]
    sheet = worst[worst.index(f"<strong>{first}</strong>") :]
    sheet = sheet[: sheet.index("</article>")]
    members = frame[frame["split"] == "train/forward"]
    members = members[members["category_id"] == first]["sample_id"]
    # Their names start with the true category, as in q7-0.
    true = members.str[1:].str.split("-").str[0].value_counts()
    assert len(true) == 2
    assert f"purity {100 * true.iloc[0] / true.sum():.1f}%" in sheet
    assert sheet.count("<li") == len(members)
    assert sheet.count('<li class="wrong"') == true.iloc[1]


def test_page_without_truth_or_later_clicks(own_shop):
    (own_shop / "log" / "clicks_later.csv").unlink()
    (own_shop / "log" / "simulation.json").unlink()
    path = categories.build(own_shop, path=own_shop / "page.html")
    html = path.read_text()
    assert "No later clicks were set aside" in html
    assert "Other granularities were not tried" in html
    assert "The lowest silhouettes of" in html
    assert "simulated" not in html
    (own_shop / "features.npz").unlink()
    (own_shop / "categories.json").unlink()
    html = categories.build(own_shop).read_text()
    assert "there is no silhouette" in html
    assert "No true categories were given" in html
    assert "shares of clicks that stay within the category" in html


def test_missing_or_damaged_input_raises_an_error(own_shop, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        categories.build(tmp_path / "no")
    with pytest.raises(UserError, match="no click log"):
        categories.build(tmp_path)
    with pytest.raises(UserError, match=r"no found\.csv"):
        categories.build(tmp_path, log=own_shop / "log")
    (own_shop / "sweep.json").write_text("[")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        categories.build(own_shop)


def test_many_sizes_are_binned():
    few = {3: 1, 2: 5}
    assert list(categories.binned(few).items()) == [(2, 5), (3, 1)]
    many = {size: 1 for size in range(2, 41)}
    assert categories.binned(many) == {
        2: 1,
        3: 1,
        4: 1,
        "5-8": 4,
        "9-16": 8,
        "17-32": 16,
        "33-64": 8,
    }


def test_error_explains_images_missing_after_a_move(own_shop, tmp_path):
    log = tmp_path / "moved" / "log"
    log.parent.mkdir()
    (own_shop / "log").rename(log)
    with pytest.raises(UserError, match=r"missing\. .*moved.*--log=FOLDER"):
        categories.build(own_shop, log)
    assert not (own_shop / "report").exists()
