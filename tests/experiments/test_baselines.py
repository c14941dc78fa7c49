"""Baselines: pairs, loss, linear map and rows."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table
from mixer_jax.experiments import baselines
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh


def test_pairs_share_category_and_part_but_not_image(colors):
    _, frame = colors
    # One query's only document shows the query's own image.
    document = frame.sample_id == "red_document_forward"
    frame.loc[document, "image"] = "red_query_forward.png"
    queries, documents = baselines.training_pairs(frame)
    assert len(queries) == 11
    left, right = frame.iloc[queries], frame.iloc[documents]
    assert list(left.category_id) == list(right.category_id)
    assert list(left.split) == list(right.split)
    assert set(left.role) == {"query"}
    assert set(right.role) == {"document"}
    assert "red_query_forward" not in set(left.sample_id)


def test_infonce_matches_manual_result():
    query = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    document = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    labels = jnp.array([0, 1])
    found = baselines.symmetric_infonce(query, document, labels, 0.5)
    # Logits: rows (2, 2) and (0, 0); columns (2, 0) twice, with targets 0, 1.
    rows = np.log(2)
    column = np.log(np.exp(2) + 1)
    assert found == pytest.approx((rows + (2 * column - 2) / 2) / 2, rel=1e-5)


def test_pairs_of_one_category_are_not_negatives():
    query = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = baselines.symmetric_infonce(query, query, jnp.array([0, 0, 1]), 0.1)
    other = baselines.symmetric_infonce(query, query, jnp.array([0, 2, 1]), 0.1)
    assert same < 1e-3
    # Two of three pairs are indistinguishable.
    assert other == pytest.approx(np.log(2) * 2 / 3, rel=1e-3)


def test_the_linear_map_learns_a_rotation():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(64, 8)).astype(np.float32) + 3
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    document = np.concatenate([(query - 3) @ turn, np.ones((64, 2))], axis=1)
    document = document.astype(np.float32)
    settings = baselines.LinearMap(
        dim=8, steps=150, batch_size=32, learning_rate=3e-2
    )

    def accuracy(steps):
        changed = baselines.dataclasses.replace(settings, steps=steps)
        towers = baselines.train_linear_map(
            query, document, np.arange(64), changed
        )
        q = baselines.apply_map(towers["query"], query)
        d = baselines.apply_map(towers["document"], document)
        return (np.argmax(q @ d.T, axis=1) == np.arange(64)).mean()

    assert accuracy(1) < 0.3
    assert accuracy(150) > 0.95


@pytest.fixture
def mean_color(monkeypatch):
    """Replaces the frozen features with cheap ones."""

    def of_images(name, paths, size):
        pixels = [decoding.decode(path, size).mean((0, 1)) for path in paths]
        return np.array(pixels, np.float32) - 128

    def of_texts(name, texts, length):
        return np.array([[len(t), 1] for t in texts], np.float32)

    monkeypatch.setattr(baselines.features, "image_features", of_images)
    monkeypatch.setattr(baselines.features, "text_features", of_texts)


def test_rows_cover_both_baselines(colors, mean_color):
    root, frame = colors
    rows = baselines.measure_baselines(
        frame,
        root,
        table.select(frame, "train"),
        root,
        image_size=8,
        settings=ConfigDict({"split": "test", "distractors": "train"}),
        mesh=make_mesh(),
        linear=baselines.LinearMap(dim=4, steps=2, batch_size=4),
    )
    names = [row["model"] for row in rows]
    assert names == [baselines.FROZEN] * 6 + [baselines.LINEAR] * 6
    frozen = [row["identical_at_1"] for row in rows[:6]]
    assert frozen == [1.0] * 6
    assert all(row["stage"] == "" for row in rows)


def test_missing_training_pairs_raise_an_error(colors, mean_color):
    root, frame = colors
    training = table.select(frame, "train")
    with pytest.raises(UserError, match="two training queries"):
        baselines.measure_baselines(
            frame,
            root,
            training[training.role == "query"],
            root,
            8,
            ConfigDict({"split": "test", "distractors": ""}),
            make_mesh(),
        )
