import numpy as np
import pytest

from mixer_jax.retrieval import embed
from mixer_jax.retrieval.sharded import embedder
from mixer_jax.runtime import identity
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def documents(colors):
    """The table's folder and its documents, the second without an image."""
    root, frame = colors
    frame = frame[frame.role == "document"].copy()
    frame.loc[frame.index[1], "image"] = ""
    return root, frame


def test_embeddings_are_those_of_a_whole_table(trained, documents):
    root, frame = documents
    counts = []
    made = embedder.Embedder(trained, root, 2)(frame, "document", counts.append)
    wanted = embed.make_embedder(trained, root, make_mesh(), 8)(frame)
    np.testing.assert_allclose(made.embeddings, wanted, atol=1e-6)
    assert made.embeddings.dtype == np.float32
    assert sum(counts) == len(frame)
    assert (made.skipped, made.places) == ((), [])
    content = (root / frame["image"].iloc[0]).read_bytes()
    np.testing.assert_array_equal(made.digests[0], identity.digest(content))
    assert not made.digests[1].any()
    np.testing.assert_array_equal(embedder.digests(frame, root), made.digests)


def test_images_that_cannot_be_decoded_are_left_out(trained, documents):
    root, frame = documents
    names = frame["image"].to_numpy()
    (root / names[2]).write_bytes(b"nothing")
    (root / names[5]).unlink()
    made = embedder.Embedder(trained, root, 2)(
        frame, "document", lambda count: None
    )
    assert made.places == [2, 5]
    first, second = made.skipped
    assert first.row == frame.index[2]
    assert (first.kind, second.kind) == ("not an image", "missing")
    assert (first.image, second.image) == (names[2], names[5])
    assert str(root) not in first.reason + second.reason
    assert made.digests[2].any()
    assert not made.digests[5].any()
    others = frame.drop(frame.index[[2, 5]])
    wanted = embed.make_embedder(trained, root, make_mesh(), 8)(others)
    kept = np.delete(made.embeddings, made.places, axis=0)
    np.testing.assert_allclose(kept, wanted, atol=1e-6)
    np.testing.assert_array_equal(embedder.digests(frame, root), made.digests)


def test_the_pixel_limit_is_that_of_the_check(trained, documents):
    root, frame = documents
    trained.config.data.max_pixels = 63  # the images have 64
    made = embedder.Embedder(trained, root, 2)(
        frame, "document", lambda count: None
    )
    assert {one.kind for one in made.skipped} == {"too large"}
    assert len(made.skipped) == len(frame) - 1
