import jax
import numpy as np
import pytest

from mixer_jax.runtime import mesh as mesh_lib


def test_batch_is_split_over_the_devices(num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    batch = {"x": np.arange(16).reshape(8, 2), "y": np.arange(8)}
    placed = mesh_lib.put_batch(batch, mesh)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.sharding == mesh_lib.rows(mesh)
        assert array.addressable_shards[0].data.shape[0] == 8 // num_devices


def test_indivisible_batch_raises_an_error():
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    with pytest.raises(ValueError, match=r"\(6,\) .* 4 local devices"):
        mesh_lib.put_batch(np.arange(6), mesh)


@pytest.mark.parametrize(("count", "rows"), [(1, 4), (4, 4), (5, 8)])
def test_padded_rows_rounds_up_to_the_mesh_size(count, rows):
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    assert mesh_lib.padded_rows(count, mesh) == rows


def test_pad_batch_appends_rows_of_zeros():
    padded = mesh_lib.pad_batch({"x": np.ones((1, 2)), "y": np.ones(1)}, 3)
    np.testing.assert_array_equal(padded["x"], [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(padded["y"], [1, 0, 0])


def test_replicated_arrays_are_whole_on_every_device():
    mesh = mesh_lib.make_mesh()
    array = jax.device_put(np.arange(5), mesh_lib.replicated(mesh))
    assert {s.data.shape for s in array.addressable_shards} == {(5,)}


def test_next_item_is_created_before_the_previous_one_is_yielded():
    created = []

    def items():
        for number in range(3):
            created.append(number)
            yield number

    seen = [(item, len(created)) for item in mesh_lib.one_behind(items())]
    assert seen == [(0, 2), (1, 3), (2, 3)]


def test_one_behind_of_no_items_is_empty():
    assert list(mesh_lib.one_behind([])) == []
