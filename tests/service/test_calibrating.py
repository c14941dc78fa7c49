"""An index of the color model, calibrated with noisy pictures of its colors."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.data.tables import table
from mixer_jax.retrieval import calibration
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import calibrating, upkeep
from tests.service.conftest import COLORS, draw

QUERIES = 20  # per color


@pytest.fixture
def queries(tmp_path):
    """A table of noisy colors; brown is not in the index."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "queries").mkdir()
    for color in (*COLORS, "brown"):
        plain = np.array(Image.new("RGB", (1, 1), color))[0, 0].astype(float)
        for number in range(QUERIES):
            name = f"{color}{number}"
            noisy = np.full((8, 8, 3), plain) + rng.normal(0, 60, 3)
            pixels = noisy.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"queries/{name}.png")
            rows.append((name, "query", f"{name}.png", "", color, "", "test"))
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    table.write_table(frame, tmp_path / "queries" / "table.csv")
    return tmp_path / "queries" / "table.csv"


@pytest.fixture
def loaded(color_net, monkeypatch):
    """Makes commands find the model of the index."""
    monkeypatch.setattr(calibrating.opening, "load_model", lambda *_: color_net)


def test_an_index_is_calibrated(place, queries, loaded, color_net):
    fitted = calibrating.calibrate(place, queries)
    assert fitted.queries == 7 * QUERIES
    assert fitted.documents == 12
    assert fitted.step == 4
    assert fitted.error < 0.15
    # Each query has two right answers, except that brown ones have none.
    assert fitted.others(0.5) < 0.2
    high = fitted.nearest(1.0)
    assert 0.6 < high < 0.95
    with mixer_jax.open_index(place, color_net) as index:
        assert index.store.calibration == fitted
        best, *others = index.search(vector=[1, -1, -1], k=12)
        assert best.probability == pytest.approx(high)
        chances = [hit.probability for hit in others]
        assert chances == sorted(chances, reverse=True)
    lines = "\n".join(upkeep.describe(place))
    assert f"calibration: {fitted}" in lines


def test_pictures_of_the_index_do_not_find_themselves(
    place, queries, loaded, monkeypatch
):
    """Otherwise, high cosines would seem to be safe."""
    counts, tallies = [], [calibration.Tally() for _ in range(2)]
    for kind, counted in zip(("bmp", "png"), tallies, strict=True):
        monkeypatch.setattr(calibration, "Tally", lambda one=counted: one)
        for number in range(QUERIES):
            path = queries.with_name(f"red{number}.png")
            path.write_bytes(draw("red", kind))
        calibrating.calibrate(place, queries)
        counts.append(counted.answers[..., 2000, 1].sum())
    # The index has red.jpeg, and red.png with the bytes of the second queries.
    assert counts[0] - counts[1] == QUERIES


def test_wrong_queries_are_refused(place, queries, loaded, tmp_path):
    frame = table.read_table(queries)
    few = queries.with_name("few.csv")
    table.write_table(frame[::2], few)
    with pytest.raises(UserError, match="there are 70 queries"):
        calibrating.calibrate(place, few)
    other = queries.with_name("other.csv")
    table.write_table(frame.assign(category_id="x" + frame.category_id), other)
    with pytest.raises(UserError, match="No answer has the category of its"):
        calibrating.calibrate(place, other)
    with pytest.raises(UserError, match="'no'"):
        calibrating.calibrate(place, queries, split="no")
    (queries.parent / "red1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="unreadable images"):
        calibrating.calibrate(place, queries, max_skipped=0.0)
    fitted = calibrating.calibrate(place, queries, max_skipped=0.1)
    assert fitted.queries == 7 * QUERIES - 1
