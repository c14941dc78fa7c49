"""Embeddings of a small table of colored squares."""

import jax
import numpy as np
import pytest

from mixer_jax.retrieval import embed
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh


def test_rows_follow_the_order_of_the_table(trained, colors, num_devices):
    root, frame = colors
    mesh = make_mesh(jax.devices()[:num_devices])
    # The batch size neither divides the rows nor is a multiple of the devices.
    found = embed.embed_table(trained, frame, root, mesh, batch_size=5)
    queries = frame[frame.role == "query"]
    assert list(found.query_ids) == list(queries.sample_id)
    assert found.query_embeddings.shape == (12, 3)
    assert found.document_embeddings.shape == (12, 3)
    norms = np.linalg.norm(found.query_embeddings, axis=1)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    by_id = dict(zip(found.query_ids, found.query_embeddings, strict=True))
    # A red square's embedding is positive in red only.
    assert by_id["red_query_forward"] @ [1, -1, -1] > 1.6
    assert by_id["green_query_reverse"] @ [-1, 1, -1] > 1.6


def test_a_document_without_an_image_is_embedded(trained, colors):
    root, frame = colors
    frame = frame[frame.role == "document"].copy()
    frame.loc[frame.index[1], "image"] = ""
    embedder = embed.make_embedder(trained, root, make_mesh(), 8)
    found = embedder(frame)
    np.testing.assert_allclose(found[1], [0, 0, 1], atol=1e-6)
    assert embedder(frame.iloc[:0]).shape == (0, 3)


def test_a_frame_with_both_roles_raises_an_error(trained, colors):
    root, frame = colors
    with pytest.raises(UserError, match="both roles"):
        embed.make_embedder(trained, root, make_mesh(), 8)(frame)


def test_saved_arrays_can_be_loaded(tmp_path):
    made = embed.Embeddings(
        np.array(["a", "longer"]),
        np.ones((2, 3), np.float32),
        np.array(["b"]),
        np.zeros((1, 3), np.float32),
    )
    path = tmp_path / "new" / "out.npz"
    embed.save(made, path)
    with np.load(path, allow_pickle=False) as saved:
        for name, array in made._asdict().items():
            np.testing.assert_array_equal(saved[name], array)
    assert [p.name for p in path.parent.iterdir()] == ["out.npz"]
    with pytest.raises(UserError, match=r"\.npz"):
        embed.save(made, tmp_path / "out.csv")
