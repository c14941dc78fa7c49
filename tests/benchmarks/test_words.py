"""Tests that searches by words use the words of the query's category."""

import json

import numpy as np
import pytest

import mixer_jax
from benchmarks import words
from mixer_jax.data.tables import table
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def model(tiny_towers, monkeypatch):
    model = Model(tiny_towers, make_mesh())
    monkeypatch.setattr(mixer_jax, "load", lambda *_, **__: model)
    return model


def test_every_way_of_searching_is_measured(model, colors, tmp_path):
    root, _ = colors
    path, out = root / "colors.csv", tmp_path / "rows.json"
    options = ["--model=unused", f"--table={path}", "--words=1,9"]
    assert words.main([*options, f"--json={out}"]) == 0
    rows = json.loads(out.read_text())
    ways = [("picture", 0)]
    ways += [(way, n) for n in (1, 9) for way in ("words", "both")]
    galleries = ("test", "test+distractors")
    assert [(row["model"], row["words"], row["gallery"]) for row in rows] == [
        (*way, gallery) for way in ways for gallery in galleries
    ]
    expected = [row for row in model.evaluate(path) if row["split"] == "test"]
    for row, same in zip(rows[:2], expected, strict=True):
        assert row["map"] == same["map"]
        assert row["queries"] == same["queries"]


def test_queries_have_the_words_of_their_category(model, colors):
    root, _ = colors
    frame = table.read_table(root / "colors.csv")
    typed = words._typed(frame, 1)
    queries = frame[frame.role == table.QUERY]
    embed = words._by_words(
        *(model, root, typed, False, words._by_picture(model, root))
    )
    texts = [f"{typed[category]}" for category in queries.category_id]
    assert len(set(texts)) > 1
    np.testing.assert_array_equal(
        embed(queries), model.embed_documents(None, texts)
    )


def test_bad_input_is_reported(model, colors, capsys):
    options = ["--model=unused", f"--table={colors[0] / 'colors.csv'}"]
    assert words.main([*options, "--words=0"]) == 2
    assert "is not a list of whole numbers" in capsys.readouterr().err
