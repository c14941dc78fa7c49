"""Git LFS pointers in place of files raise an error that names them."""

import pytest

from mixer_jax.data.stream import text
from mixer_jax.models.weights import originals
from mixer_jax.retrieval import bundle, runs
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.runtime.tabular import tables
from mixer_jax.service import building
from mixer_jax.service.stores.local import LocalStore
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import checkpoints, workdir

POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def error_for(name):
    return pytest.raises(UserError, match=rf"{name} is a Git LFS pointer.*pull")


def test_only_pointers_are_rejected(tmp_path):
    (tmp_path / "other").write_text(f"# {POINTER}")
    files.check_fetched(tmp_path, tmp_path / "missing")
    (tmp_path / "file").write_text(POINTER)
    with error_for("file"):
        files.check_fetched(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_pointer_in_place_of_a_table_is_rejected(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with error_for(name):
        tables.read(tmp_path / name, tables.Layout(("sample_id",)))


def test_pointers_in_place_of_weights_are_rejected(tmp_path):
    for name in ("tokenizer.json", "model.safetensors", "model.bin"):
        (tmp_path / name).write_text(POINTER)
    with error_for("tokenizer.json"):
        text.load(str(tmp_path), 8)
    for name in ("model.safetensors", "model.bin"):
        with error_for(name):
            originals.read_file(tmp_path / name)


def test_pointers_in_indexes_and_bundles_are_rejected(
    color_run, colors, tmp_path
):
    mesh = make_mesh()
    table = colors[0] / "colors.csv"
    building.build(tmp_path / "index", workdir=color_run, table=table)
    for name in ("items-1.sqlite", "index.json"):
        (tmp_path / "index" / name).write_text(POINTER)
        with error_for(name):
            LocalStore.open(tmp_path / "index")
    bundle.write(runs.load(color_run / "stage2", mesh), tmp_path / "bundle")
    (tmp_path / "bundle" / "model.safetensors").write_text(POINTER)
    with error_for("model.safetensors"):
        bundle.read(tmp_path / "bundle")


def test_unfetched_checkpoint_is_not_set_aside(color_run):
    folder = color_run / "stage2"
    step = folder / workdir.CHECKPOINTS / "4"
    part = next((step / "model").rglob("d/*"))
    part.write_text(POINTER)
    with error_for(part.name):
        checkpoints.load_model(folder)
    state = state_lib.TrainState(
        step=0,
        skipped=0,
        params={},
        batch_stats={},
        opt_state={},
        proxies=None,
        proxy_state={},
        graph=None,
    )
    with checkpoints.Checkpoints(folder) as saved, error_for(part.name):
        saved.restore(state)
    assert step.is_dir()
