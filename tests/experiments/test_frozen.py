import numpy as np

from mixer_jax.data.tables import table
from mixer_jax.experiments import folds, frozen
from mixer_jax.runtime.mesh import make_mesh


def test_features_are_stored_once_and_pooled(
    tiny_table, tiny_encoders, tmp_path
):
    ((fold,),) = folds.read({"colors": tiny_table}, 0.0).values()
    said = []
    arguments = (tiny_encoders, [fold], tmp_path / "features", make_mesh())
    frozen.encode(*arguments, said.append)
    assert len(said) == 1
    features = frozen.encode(*arguments, said.append)
    assert len(said) == 1
    documents = fold.split("test")
    documents = documents[documents["role"] == table.DOCUMENT]
    rows = documents["place"].to_numpy()
    images = frozen.pooled_images(features, documents)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, rtol=1e-5)
    both = frozen.pooled_documents(features, documents)
    np.testing.assert_array_equal(both[:, : images.shape[1]], images)
    batch = features.batch(rows, table.DOCUMENT)
    vectors, mask = batch["token_vectors"], batch["token_mask"]
    for row, text in enumerate(both[:, images.shape[1] :]):
        mean = vectors[row][mask[row]].astype(np.float32).mean(0)
        np.testing.assert_allclose(
            text, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6
        )
