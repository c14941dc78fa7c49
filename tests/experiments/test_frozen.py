import numpy as np

from mixer_jax.data.tables import table
from mixer_jax.experiments import folds, frozen
from mixer_jax.models import whitening
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
    images = features.images(documents)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, rtol=1e-5)
    both = features.documents(documents)
    np.testing.assert_array_equal(both[:, : images.shape[1]], images)
    batch = features.store.batch(rows, table.DOCUMENT)
    vectors, mask = batch["token_vectors"], batch["token_mask"]
    for row, text in enumerate(both[:, images.shape[1] :]):
        mean = vectors[row][mask[row]].astype(np.float32).mean(0)
        np.testing.assert_allclose(
            text, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6
        )


def test_only_attention_needs_all_patches(tiny_table, tiny_encoders, tmp_path):
    ((fold,),) = folds.read({"colors": tiny_table}, 0.0).values()
    features = frozen.encode(
        tiny_encoders, [fold], tmp_path / "features", make_mesh(), print
    )
    places = np.array([3, -1, 0])
    whole = features.store.batch(places, table.DOCUMENT)
    attended = features.batch(places, table.DOCUMENT, attends=True)
    for name, values in whole.items():
        np.testing.assert_array_equal(attended[name], values)
    means = whole["patches"].astype(np.float32).mean(1, keepdims=True)
    pooled = features.batch(places, table.DOCUMENT)
    np.testing.assert_array_equal(pooled.pop("patches"), means)
    for name, values in pooled.items():
        np.testing.assert_array_equal(values, whole[name])
    assert pooled.keys() == whole.keys() - {"patches"}
    query = features.batch(places, table.QUERY, attends=True)
    np.testing.assert_array_equal(query.pop("patches"), means)
    assert not query


def test_whitening_is_that_of_one_pair_per_query(
    tiny_table, tiny_encoders, tmp_path
):
    ((fold,),) = folds.read({"colors": tiny_table}, 0.0).values()
    features = frozen.encode(
        tiny_encoders, [fold], tmp_path / "features", make_mesh(), print
    )
    training = fold.split("train")
    sampler = folds.PairSampler(training)
    ((queries, documents),) = sampler.draw(
        np.random.default_rng(0), 1, len(sampler)
    )
    places = training["place"].to_numpy()
    means = [
        features.batch(places[rows], table.QUERY)["patches"][:, 0]
        for rows in (queries, documents)
    ]
    width = means[0].shape[1]
    moments = whitening.add(
        whitening.start(width), *means, np.ones(len(queries), bool)
    )
    expected = whitening.solve(moments, np.zeros((width, 2), np.float32))
    found = features.whiten(training, 2)
    assert features.whiten(training, 2) is found
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-5)
    test = fold.split("test")
    for role, center in zip(
        (table.QUERY, table.DOCUMENT), expected[1:], strict=True
    ):
        rows = test[test["role"] == role]
        mapped = features.batch(rows["place"].to_numpy(), table.QUERY)
        mapped = (mapped["patches"][:, 0] - center) @ expected.kernel
        mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
        np.testing.assert_allclose(
            features.whitened(rows, found), mapped, rtol=2e-3, atol=1e-4
        )
