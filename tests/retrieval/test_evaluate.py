"""Evaluation rows of a small table of colored squares."""

import json
import shutil
import threading
import time

import jax
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from mixer_jax.data.tables import table
from mixer_jax.retrieval import embed, evaluate, metrics
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
    # Query a ranks a b a b, query b ranks b a b a (over rows 0, 1, 3, 2 and
    # 2, 3, 1, 0).
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


def test_the_mean_is_over_parts_not_queries(trained, colors):
    root, frame = colors
    # One query of the reverse part, wrongly labeled; four of the other.
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


def row(model, value, split="test"):
    return {
        "model": model,
        "stage": "",
        "split": split,
        "gallery": "test",
        "queries": 1,
        "documents": 1,
        "identical_at_1": value,
    }


def test_update_replaces_rows_with_the_same_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "new" / "metrics.json"
    evaluate.update(path, [row("a", 1), row("b", 2)])
    merged = evaluate.update(path, [row("a", 3), row("a", 4, "test/x")])
    assert merged == [row("a", 3), row("b", 2), row("a", 4, "test/x")]
    assert json.loads(path.read_text()) == merged
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list of evaluation rows"):
        evaluate.update(path, [])


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


def test_concurrent_updates_lose_no_rows(tmp_path, monkeypatch):
    path = tmp_path / "new" / "metrics.json"
    merge = evaluate.merge

    def slowly(path, rows):
        merged = merge(path, rows)
        time.sleep(0.05)
        return merged

    monkeypatch.setattr(evaluate, "merge", slowly)
    models = [f"model {number}" for number in range(4)]
    threads = [
        threading.Thread(target=evaluate.update, args=(path, [row(name, 1)]))
        for name in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = json.loads(path.read_text())
    assert sorted(one["model"] for one in found) == models
    assert [path.name for path in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b"3",
        json.dumps([row("a", 1) | {"model": 3}]).encode(),
        json.dumps([row("a", 1) | {"queries": None}]).encode(),
        json.dumps([row("a", "x")]).encode(),
        json.dumps([row("a", 10**400)]).encode(),
        json.dumps([{k: row("a", 1)[k] for k in metrics.KEY}]).encode(),
    ],
)
def test_malformed_rows_are_not_merged(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a list of evaluation rows"):
        evaluate.update(path, [row("b", 1)])
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}x", b"\xff\xfe\xff", b"[" * 99_999])
def test_rows_are_rescued_if_the_file_has_changed(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.json"
    evaluate.check_out(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a list of evaluation"):
        evaluate.check_out(path)
    with pytest.raises(UserError, match=r"not a list of evaluation.* saved as"):
        evaluate.update(path, [row("a", 1)])
    assert path.read_bytes() == content
    (kept,) = tmp_path.glob("rescued-*/rows.json")
    assert json.loads(kept.read_text()) == [row("a", 1)]
