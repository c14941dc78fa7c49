"""Evaluation on a small table of colored squares."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from mixer_jax.data.tables import table
from mixer_jax.retrieval import calibration, embed, evaluate
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh

SETTINGS = ConfigDict({"split": "test", "distractors": "train"})


def samples(embeddings, categories, images=None, groups=None):
    nothing = [""] * len(categories)
    return evaluate.Samples(
        np.array(embeddings, np.float32),
        np.array(categories),
        np.array(groups or nothing),
        np.array(images or nothing),
    )


def test_measures_match_a_hand_computed_example(num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    documents = samples(
        [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]],
        ["a", "b", "b", "a"],
        groups=["x", "x", "y", ""],
    )
    # Ranked categories: a b a b for query a (rows 0, 1, 3, 2), and b a b a for
    # query b (rows 2, 3, 1, 0).
    queries = samples([[1, 0], [0, 1]], ["a", "b"], groups=["x", "x"])
    found = evaluate.measure(queries, documents, mesh)
    precision = (1 + 2 / 3) / 2
    assert found == {
        "queries": 2,
        "documents": 4,
        "identical_at_1": 1.0,
        "identical_at_5": 1.0,
        "relevance_at_1": 0.5,
        "map": pytest.approx(precision),
        "map_at_r": 0.5,
        "mrr": 1.0,
        "excluded": 0,
    }


def test_the_image_of_a_query_is_excluded_from_its_gallery():
    documents = samples(
        [[1, 0], [0.5, 0.5], [0, 1]], ["a", "b", "a"], ["same", "", "other"]
    )
    queries = samples([[1, 0], [1, 0]], ["a", "a"], ["same", ""])
    found = evaluate.measure(queries, documents, make_mesh())
    # Without its own image, the first query ranks b before a.
    assert found["excluded"] == 1
    assert found["identical_at_1"] == 0.5
    assert found["mrr"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_query_without_relevant_documents_is_not_counted():
    documents = samples([[1, 0], [0, 1]], ["a", "b"], ["same", "other"])
    queries = samples([[1, 0], [0, 1]], ["a", "b"], ["same", "third"])
    found = evaluate.measure(queries, documents, make_mesh())
    assert (found["queries"], found["excluded"]) == (1, 1)
    assert found["identical_at_1"] == 1.0
    assert found["relevance_at_1"] is None


def test_blocks_of_queries_add_up_to_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    queries = samples(rng.normal(size=(30, 4)), list("abcde") * 6)
    documents = samples(rng.normal(size=(50, 4)), list("abcde") * 10)
    whole = evaluate.measure(queries, documents, make_mesh())
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    blocks = evaluate.measure(queries, documents, make_mesh())
    assert blocks == pytest.approx(whole, nan_ok=True)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_processes_divide_the_blocks(monkeypatch, count):
    rng = np.random.default_rng(0)
    queries = samples(rng.normal(size=(30, 4)), list("abcde") * 6)
    documents = samples(rng.normal(size=(50, 4)), list("abcde") * 10)
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    mesh = make_mesh()
    whole = evaluate.measure(queries, documents, mesh)
    shares = []

    def gather(name, found):
        if len(shares) < count:
            shares.append(json.loads(json.dumps(found)))
        return shares

    monkeypatch.setattr(evaluate.processes, "gather", gather)
    monkeypatch.setattr(evaluate.processes, "barrier", lambda *given: None)
    for place in range(count):
        monkeypatch.setattr(
            evaluate.processes, "place", lambda place=place: (place, count)
        )
        found = evaluate.measure(queries, documents, mesh, together=True)
    assert sorted(map(len, shares)) == sorted(
        len(range(place, 5, count)) for place in range(count)
    )
    assert found == whole  # bitwise equal


def test_evaluate_returns_rows_per_part_and_gallery_and_their_means(
    trained, colors
):
    root, frame = colors
    mesh = make_mesh()
    embedder = embed.make_embedder(trained, root, mesh, 8)
    rows = evaluate.evaluate(
        embedder, frame, root, SETTINGS, mesh, "color", "stage1"
    )
    assert [(r["split"], r["gallery"]) for r in rows] == [
        (split, gallery)
        for split in ("test/forward", "test/reverse")
        for gallery in ("test", "test+distractors")
    ] + [("test", "test"), ("test", "test+distractors")]
    assert [r["documents"] for r in rows] == [4, 6, 4, 6, 8, 12]
    assert [r["queries"] for r in rows] == [4, 4, 4, 4, 8, 8]
    assert all(r["identical_at_1"] == 1.0 for r in rows)
    assert all(r["stage"] == "stage1" for r in rows)


def test_models_are_calibrated_but_baselines_are_not(
    trained, colors, monkeypatch
):
    root, frame = colors
    mesh, settings = make_mesh(), (SETTINGS, make_mesh(), "color", "stage1")
    embedder = embed.make_embedder(trained, root, mesh, 8)
    rows = evaluate.evaluate(embedder, frame, root, *settings, step=3)
    assert all(row["calibration"] is None for row in rows)  # few queries
    monkeypatch.setattr(calibration, "MIN_QUERIES", 4)
    monkeypatch.setattr(calibration, "FOLDS", 2)
    rows = evaluate.evaluate(embedder, frame, root, *settings, step=3)
    found = [calibration.parse(row["calibration"]) for row in rows]
    # The last two are fitted to the queries of both parts.
    assert [one.queries for one in found] == [4, 4, 4, 4, 8, 8]
    assert [one.documents for one in found] == [4, 6, 4, 6, 4, 6]
    assert {one.step for one in found} == {3}
    assert found[-1].nearest(1) > 0.7 > 0.2 > found[-1].others(0)
    (first, *_) = evaluate.evaluate(embedder, frame, root, *settings)
    assert "calibration" not in first


def test_answers_are_counted_in_all_blocks_of_all_processes(monkeypatch):
    rng = np.random.default_rng(0)
    queries = samples(rng.normal(size=(30, 4)), list("abcde") * 6)
    documents = samples(rng.normal(size=(50, 4)), list("abcde") * 10)
    whole = calibration.Tally()
    evaluate.measure(queries, documents, make_mesh(), tally=whole)
    assert (whole.queries, whole.answers.sum()) == (30, 150)
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    shares = []
    for place in range(2):
        monkeypatch.setattr(evaluate.processes, "place", lambda p=place: (p, 2))
        monkeypatch.setattr(evaluate.processes, "barrier", lambda *_: None)
        monkeypatch.setattr(
            evaluate.processes, "gather", lambda name, value: [value, value]
        )
        shares.append(calibration.Tally())
        evaluate.measure(
            queries, documents, make_mesh(), True, tally=shares[-1]
        )
    assert shares[0].queries == 16  # blocks 0, 2 and 4
    both = calibration.merge(shares)
    assert both.queries == 30
    assert both.documents == whole.documents
    np.testing.assert_array_equal(both.answers, whole.answers)
    twice = shares[0].collect()
    np.testing.assert_array_equal(twice.answers, 2 * shares[0].answers)


def test_the_mean_is_over_parts_not_queries(trained, colors):
    root, frame = colors
    # One mislabeled query in the reverse part; four queries in the other.
    reverse = frame.split == "test/reverse"
    keep = ~(reverse & (frame.role == "query")) | (
        frame.sample_id == "red_query_reverse"
    )
    frame = frame[keep].copy()
    wrong = frame.sample_id == "red_query_reverse"
    frame.loc[wrong, "category_id"] = "green"
    mesh = make_mesh()
    embedder = embed.make_embedder(trained, root, mesh, 8)
    rows = evaluate.evaluate(embedder, frame, root, SETTINGS, mesh, "color")
    mean = next(r for r in rows if r["split"] == "test")
    assert mean["identical_at_1"] == 0.5
    assert mean["queries"] == 5


def test_image_digests_depend_on_contents_only(colors):
    root, frame = colors
    shutil.copy(root / frame.image[0], root / "copy.png")
    frame = pd.concat([frame.iloc[:2], frame.iloc[:1]], ignore_index=True)
    frame.loc[2, "image"] = "copy.png"
    found = evaluate.image_digests(frame, root)
    assert found[0] == found[2] != found[1]
    frame.loc[1, "image"] = ""
    assert evaluate.image_digests(frame, root)[1] == ""


def test_read_keeps_only_the_rows_to_evaluate(colors):
    root, frame = colors
    found, skipped = evaluate.read(root / "colors.csv", SETTINGS, 0.0)
    needed = frame.split.str.startswith("test") | (frame.role == "document")
    assert list(found.sample_id) == list(frame.sample_id[needed])
    assert skipped == []
    (root / "red_query_forward.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="red_query_forward"):
        evaluate.read(root / "colors.csv", SETTINGS, 0.0)
    found, (skipped,) = evaluate.read(root / "colors.csv", SETTINGS, 0.2)
    assert "red_query_forward" not in set(found.sample_id)
    assert skipped.count == 1


def test_categories_in_both_splits_raise_an_error(colors):
    root, frame = colors
    frame.loc[frame.category_id == "gray", "category_id"] = "red"
    table.write_table(frame, root / "seen.csv")
    with pytest.raises(UserError, match=r"1 categories .* 'red'"):
        evaluate.read(root / "seen.csv", SETTINGS, 0.0)


def test_a_part_without_documents_raises_an_error(colors):
    root, frame = colors
    keep = (frame.split != "test/forward") | (frame.role == "query")
    table.write_table(frame[keep], root / "half.csv")
    with pytest.raises(UserError, match=r"'test/forward' .* has no document"):
        evaluate.read(root / "half.csv", SETTINGS, 0.0)


def test_ids_that_differ_by_a_nul_character_are_distinct(colors):
    root, frame = colors
    frame = frame[:2].assign(category_id=["a", "a\0"], group=["g", "g\0"])
    made = evaluate.make_samples(
        frame, root, lambda rows: np.eye(2, dtype=np.float32)[: len(rows)]
    )
    one, other = (
        evaluate.Samples(*(column[row] for column in made))
        for row in (slice(0, 1), slice(1, 2))
    )
    codes = evaluate._codes(one.categories, other.categories)
    assert codes[0][0] != codes[1][0]
    codes = evaluate._codes(one.groups, other.groups)
    assert codes[0][0] != codes[1][0]
