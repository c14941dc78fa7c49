import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.experiments import ranking
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime.mesh import make_mesh


def draw_samples():
    rng = np.random.default_rng(0)
    rows = [
        {
            "role": role,
            "category_id": f"c{rng.integers(12)}",
            "group": "g" if number % 2 else "",
            "digest": f"{number}" if number else "same",
            "split": f"test/{part}",
            "place": number,
        }
        for number, (part, role) in enumerate(
            (part, role)
            for part in "ab"
            for role in (table.QUERY, table.DOCUMENT)
            for _ in range(30)
        )
    ]
    frame = pd.DataFrame(rows)
    # The first query's image is also a document of its category.
    frame.loc[30, ["digest", "category_id"]] = frame.loc[
        0, ["digest", "category_id"]
    ].tolist()
    return frame, rng.normal(size=(len(frame), 4)).astype(np.float32)


def test_ranks_match_a_slow_ranking():
    frame, vectors = draw_samples()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = sorted(set(frame["category_id"]))
    ranks, categories = [], []
    for _, part in frame.groupby("split"):
        documents = part[part["role"] == table.DOCUMENT]
        for query in part[part["role"] == table.QUERY].itertuples():
            shown = documents[documents["digest"] != query.digest]
            scores = vectors[shown["place"]] @ vectors[query.place]
            order = shown["category_id"].to_numpy()[np.argsort(-scores)]
            if (order == query.category_id).any():
                ranks.append(int(np.argmax(order == query.category_id)) + 1)
                categories.append(ids.index(query.category_id))
    found = ranking.rank(
        lambda rows: vectors[rows["place"]], frame, make_mesh()
    )
    assert found.ranks.tolist() == ranks
    assert found.categories.tolist() == categories
    assert found.documents == 30
    assert set(found.measures) == set(evaluate.MEASURES)
    assert found.measures["identical_at_1"] == np.mean(np.array(ranks) == 1)
    assert set(found.parts) == {"test/a", "test/b"}
    by_part = [
        ranking.rank(
            lambda rows: vectors[rows["place"]],
            frame[frame["split"] == part],
            make_mesh(),
        ).measures["identical_at_1"]
        for part in found.parts
    ]
    assert [mean.value for mean in found.parts.values()] == by_part
    mrr = np.mean(1 / np.array(ranks))
    np.testing.assert_allclose(found.measures["mrr"], mrr)


def test_diverged_embeddings_are_ranked():
    frame, vectors = draw_samples()
    vectors[:] = np.nan
    found = ranking.rank(
        lambda rows: vectors[rows["place"]], frame, make_mesh()
    )
    assert found.measures["identical_at_1"] < 0.5


def test_arrays_are_packed_as_text():
    values = np.array([1, 2, 300_000, -1], np.int32)
    np.testing.assert_array_equal(ranking.unpack(ranking.pack(values)), values)
    empty = ranking.unpack(ranking.pack(values[:0]))
    assert empty.shape == (0,)
    for damaged in ("", "?", ranking.pack(values)[:-8], None):
        with pytest.raises(ValueError, match=r"\w"):
            ranking.unpack(damaged)
