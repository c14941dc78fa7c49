"""Export of proxies as plain files."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.retrieval import export
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import row_files, workdir
from mixer_jax.training.checkpoint.checkpoints import Checkpoints
from mixer_jax.training.config import defaults as config_lib

COUNT, DIM = 13, 4
IDS = [f"c{i}" for i in range(COUNT - 1)] + ["é\n"]


@pytest.fixture
def proxies():
    rows = np.random.default_rng(0).normal(size=(COUNT, DIM))
    rows[2] = 0
    return rows.astype(np.float32)


@pytest.fixture
def save_run(tmp_path, proxies):
    """Returns a function that saves a run whose padding rows are all 9."""

    def save(num_devices, dtype=jnp.float32, subcenters=1):
        mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
        more = mesh_lib.padded_rows(COUNT, mesh) - COUNT
        rows = np.pad(proxies, ((0, more), (0, 0)), constant_values=9)
        state = state_lib.TrainState(
            step=jnp.int32(4),
            skipped=jnp.int32(0),
            params={},
            batch_stats={},
            opt_state={},
            proxies=rows.astype(dtype),
            proxy_state={},
            graph=None,
        )
        state = jax.device_put(state, state_lib.shardings(state, mesh))
        config = config_lib.defaults()
        config.model.dim = DIM // subcenters
        config.head.subcenters = subcenters
        folder = tmp_path / f"run{num_devices}"
        workdir.prepare(folder, config, IDS)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(4, state, {}, force=True)
        return folder

    return save


def test_the_export_has_one_row_per_category(save_run, proxies, tmp_path):
    run, out = save_run(8), tmp_path / "new" / "out"
    made = export.write(run, out)
    assert made == export.Export(run, 4, COUNT, 1, DIM)
    assert {p.name for p in out.iterdir()} == {
        "proxies.npy",
        "categories.json",
        "export.json",
    }
    np.testing.assert_array_equal(np.load(out / "proxies.npy"), proxies)
    assert json.loads((out / "categories.json").read_text("utf-8")) == IDS
    assert json.loads((out / "export.json").read_text("utf-8")) == {
        "workdir": str(run),
        "step": 4,
        "C": COUNT,
        "D": DIM,
        "subcenters": 1,
        "dtype": "float32",
        "rows": ("row i belongs to the i-th ID of categories.json; as trained"),
    }


@pytest.mark.parametrize("unit", [False, True])
def test_bytes_do_not_depend_on_devices_or_blocks(
    save_run, tmp_path, monkeypatch, unit
):
    contents = set()
    for number, num_devices in enumerate((1, 2, 8)):
        run = save_run(num_devices)
        monkeypatch.setattr(row_files, "CHUNK", (2**26, 3 * 16, 1)[number])
        export.write(run, tmp_path / "out", unit)
        contents.add((tmp_path / "out" / "proxies.npy").read_bytes())
    (content,) = contents
    # The bytes match the output of `np.save`.
    file = io.BytesIO()
    np.save(file, np.load(io.BytesIO(content)))
    assert content == file.getvalue()


def test_unit_scales_rows_to_length_1(save_run, proxies, tmp_path):
    export.write(save_run(2), tmp_path / "out", unit=True)
    rows = np.load(tmp_path / "out" / "proxies.npy")
    length = np.linalg.norm(proxies, axis=1, keepdims=True)
    length[2] = 1  # A row of zeros has no direction.
    np.testing.assert_allclose(rows, proxies / length, atol=1e-6)
    meta = json.loads((tmp_path / "out" / "export.json").read_text())
    assert meta["rows"].endswith("scaled to length 1")


def test_unit_scales_each_subcenter_to_length_1(save_run, proxies, tmp_path):
    made = export.write(save_run(1, subcenters=2), tmp_path / "out", unit=True)
    assert (made.subcenters, made.dim) == (2, DIM // 2)
    rows = np.load(tmp_path / "out" / "proxies.npy")
    assert rows.shape == (COUNT, DIM)
    length = np.linalg.norm(rows.reshape(COUNT, 2, -1), axis=2)
    np.testing.assert_allclose(np.delete(length, 2, 0), 1, atol=1e-6)


def test_bfloat16_becomes_float32(save_run, proxies, tmp_path):
    export.write(save_run(2, jnp.bfloat16), tmp_path / "out")
    rows = np.load(tmp_path / "out" / "proxies.npy")
    assert rows.dtype == np.float32
    want = np.float32(proxies.astype(jnp.bfloat16))
    np.testing.assert_array_equal(rows, want)


def test_an_error_leaves_the_previous_export_unchanged(
    save_run, proxies, tmp_path, monkeypatch
):
    run, out = save_run(2), tmp_path / "out"
    export.write(run, out)
    before = (out / "proxies.npy").read_bytes()
    proxies[12, 1] = np.nan  # in the last block
    monkeypatch.setattr(row_files, "CHUNK", 1)
    with pytest.raises(UserError, match=r"step 4 .* not all finite"):
        export.write(save_run(1), out)
    assert (out / "proxies.npy").read_bytes() == before
    path = run / workdir.CONFIG
    path.write_text(path.read_text().replace('"dim": 4', '"dim": 5'))
    with pytest.raises(UserError, match=r"1 x 5 numbers .* has 4"):
        export.write(run, out)
    assert [p.name for p in tmp_path.iterdir() if "run" not in p.name] == [
        "out"
    ]
