"""Stored features replace the samples they were computed from."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs, setup
from mixer_jax.training.cache import array_files, feature_store


@pytest.fixture
def stage(make_stage, cached_config):
    return make_stage(cached_config, feature_store)


def test_stored_features_reproduce_embeddings(stage):
    run, variables, make = stage
    store = make()
    pictures = inputs.Pictures(
        inputs.load(run.config.data, prepare=True), run.config
    )
    rows = np.arange(len(run.inputs.samples))
    for role in (table.QUERY, table.DOCUMENT):
        for kept, read in zip(
            store.evaluation_batches(role, 10, rows),
            pictures.evaluation_batches(role, 10, rows),
            strict=True,
        ):
            np.testing.assert_array_equal(kept["index"], read["index"])
            np.testing.assert_array_equal(kept["mask"], read["mask"])
            for name in {"has_image", "token_mask"} & set(read[role]):
                np.testing.assert_array_equal(
                    kept[role][name], read[role][name]
                )
            one, other = (
                run.model.apply(variables, x[role], method=f"encode_{role}")
                for x in (kept, read)
            )
            mask = kept["mask"]  # Padding has no embedding.
            np.testing.assert_allclose(one[mask], other[mask], atol=0.02)


def test_training_batches_match_those_of_the_samples(stage):
    run, _, make = stage
    kept = make().train_batches()
    read = inputs.Pictures(
        inputs.load(run.config.data, prepare=True), run.config
    ).train_batches()
    for _ in range(5):
        one, other = next(kept), next(read)
        for role in (table.QUERY, table.DOCUMENT):
            np.testing.assert_array_equal(
                one[role]["label"], other[role]["label"]
            )
        np.testing.assert_array_equal(
            one["document"]["token_mask"], other["document"]["token_mask"]
        )


def test_only_missing_features_are_computed(stage, tmp_path, monkeypatch):
    _, variables, make = stage
    monkeypatch.setattr(array_files, "BLOCK", 8 * 32)  # 8 images or a text
    first = make()
    rows = np.arange(48)
    whole = first.batch(rows, table.DOCUMENT)
    folder = tmp_path / "features"

    encoded = []
    encode = feature_store._encode_images

    def spy(inputs, rows, *rest):
        encoded.append(len(rows))
        return encode(inputs, rows, *rest)

    monkeypatch.setattr(feature_store, "_encode_images", spy)
    output = io.StringIO()
    make(output=output)
    assert not encoded
    assert not output.getvalue()

    # Simulate a run killed after 16 of 47 images.
    patches = np.load(folder / "patches.npy", mmap_mode="r+")
    patches[16:] = 0
    patches.flush()
    done = json.loads((folder / "done.json").read_text())
    done["patches"][2:] = [None] * 4
    (folder / "done.json").write_text(json.dumps(done))
    again = make().batch(rows, table.DOCUMENT)
    assert encoded == [31]
    jax.tree.map(np.testing.assert_array_equal, again, whole)

    # Other encoders.
    other = jax.tree.map(lambda x: x + 0.5, variables)
    changed = make(other, output).batch(rows, table.DOCUMENT)
    assert encoded == [31, 47]
    assert "encoding 47 images and 12 texts" in output.getvalue()
    assert np.any(changed["patches"] != whole["patches"])


def test_damaged_features_are_recomputed(stage, tmp_path, monkeypatch):
    _, _, make = stage
    monkeypatch.setattr(array_files, "BLOCK", 8 * 32)  # 8 images or a text
    rows = np.arange(48)
    whole = make().batch(rows, table.DOCUMENT)
    for name, row in (("patches", 20), ("vectors", 3)):
        array = np.load(tmp_path / "features" / f"{name}.npy", mmap_mode="r+")
        array[row] ^= 1
        array.flush()
    output = io.StringIO()
    again = make(output=output).batch(rows, table.DOCUMENT)
    assert (
        "patches.npy are damaged; computing their 8 rows" in output.getvalue()
    )
    assert "mask.npy are damaged; computing their 1 rows" in output.getvalue()
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_features_do_not_depend_on_the_number_of_devices(stage, tmp_path):
    run, variables, _ = stage

    def make(num_devices):
        mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
        return feature_store.make(
            tmp_path / str(num_devices),
            run.inputs,
            run.config,
            run.model,
            jax.device_put(
                jax.device_get(variables), mesh_lib.replicated(mesh)
            ),
            mesh,
            lambda text: None,
        )

    def check(one, other):
        for role in (table.QUERY, table.DOCUMENT):
            assert one[role].keys() == other[role].keys()
            for name, values in one[role].items():
                if values.dtype == jnp.bfloat16:  # one bf16 rounding
                    np.testing.assert_allclose(
                        np.float32(values),
                        np.float32(other[role][name]),
                        rtol=2**-7,
                        atol=1e-6,
                    )
                else:
                    np.testing.assert_array_equal(values, other[role][name])

    rows = np.arange(len(run.inputs.samples))
    alone = make(1)
    wanted = {r: alone.batch(rows, r) for r in (table.QUERY, table.DOCUMENT)}
    # The tolerance is small enough to distinguish rows.
    moved = jax.tree.map(lambda x: np.roll(x, 1, 0), wanted)
    with pytest.raises(AssertionError):
        check(moved, wanted)
    batches = alone.train_batches()
    drawn = [next(batches) for _ in range(3)]
    for num_devices in (4, 8):
        store = make(num_devices)
        check({r: store.batch(rows, r) for r in wanted}, wanted)
        for batch, want in zip(store.train_batches(), drawn, strict=False):
            check(batch, want)


def test_model_without_text_stores_none(stage):
    run, variables, make = stage
    params = {
        name: part
        for name, part in variables["params"].items()
        if name != "text_encoder"
    }
    store = make(variables | {"params": params})
    documents = run.inputs.samples.of_role(table.DOCUMENT)
    batch = store.batch(documents, table.DOCUMENT)
    assert not batch["token_mask"].any()
    assert not batch["token_vectors"].any()
    assert batch["patches"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.augment": "light"}, "data.augment"),
        ({"optimizer.parts": (("image_encoder", 0.0),)}, "text_encoder"),
    ],
)
def test_uncacheable_settings_are_rejected(
    cached_config, tmp_path, changes, message
):
    cached_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        setup.make(cached_config, tmp_path, mesh_lib.make_mesh())


@pytest.mark.slow
def test_stage_on_features_resumes_exactly(
    cached_config, train, train_with_interruption
):
    cached_config.proxies.init = "imprint"
    whole = train(cached_config, "whole")
    resumed = train_with_interruption(cached_config, "parts")
    for name in ("params", "proxies", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(resumed, name),
            getattr(whole, name),
        )
