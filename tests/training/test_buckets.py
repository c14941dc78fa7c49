"""A run with its workdir in a bucket matches a local one."""

import io
import json
import re
import signal

import jax
import numpy as np
import pytest
import rich.console

from mixer_jax.retrieval import export, runs
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import curriculum, plan
from mixer_jax.training.checkpoint import checkpoints, row_files
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.watch.logs import METRICS, TENSORBOARD
from tests import fake_gcs, several

# Each test starts several processes or a whole curriculum.
pytestmark = pytest.mark.slow

STAGES = ("stage1", "stage2", "stage3")
RUN = "gs://shared/runs/toy"
MARK = "commit_success.txt"
MESH = mesh_lib.make_mesh(jax.devices()[:2])


def losses(text):
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def killed(begin, whole, cloud, tmp_path_factory):
    """A run killed during a save and resumed by two processes.

    Returns:
      The objects left by the killed process, the final objects, and the cache
      folder of the machine.
    """
    del whole  # Requested first to reuse its compiled programs.
    cloud.buckets["shared"] = objects = {}
    cache = tmp_path_factory.mktemp("cache")
    variables = cloud.environment() | {"XDG_CACHE_HOME": str(cache)}
    begun = begin(RUN, 1, **variables)
    put = cloud.put

    def kill(bucket, name, data, query):
        if name.endswith("stage3/checkpoints/8/model/manifest.ocdbt"):
            begun[0].kill()
            raise fake_gcs.RefusedError(503)
        return put(bucket, name, data, query)

    cloud.put = kill
    (ended,) = several.finish(begun)
    assert ended.code == -signal.SIGKILL, ended.error
    cloud.put, left = put, dict(objects)
    for ended in several.finish(begin(RUN, 2, **variables)):
        assert ended.code == 0, ended.error
    return left, objects, cache


@pytest.fixture
def run(killed, cloud, monkeypatch):
    """The workdir of the killed run, made accessible to this process."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return paths.make(RUN)


def test_killed_run_leaves_a_partial_save(killed):
    left, _, _ = killed
    folder = "runs/toy/stage3/checkpoints"
    assert f"{folder}/4/{MARK}" in left
    assert any(name.startswith(f"{folder}/8/") for name in left)
    assert not {f"{folder}/{step}/{MARK}" for step in (8, 12)} & left.keys()
    # The log never lags behind a checkpoint.
    log = left[f"runs/toy/stage3/{METRICS}"].data.decode()
    assert list(losses(log))[:8] == list(range(1, 9))


def test_losses_match_a_local_run(killed, run, whole):
    for stage in STAGES:
        local = losses((whole / stage / METRICS).read_text())
        found = losses((run / stage / METRICS).read_text())
        assert list(found) == list(local)
        np.testing.assert_allclose(
            list(found.values()), list(local.values()), rtol=1e-5
        )


def test_files_match_a_local_run(killed, whole):
    _, objects, cache = killed
    local = {
        path.relative_to(whole).as_posix()
        for path in whole.rglob("*")
        if path.is_file()
    }
    remote = {name.removeprefix("runs/toy/") for name in objects}

    def fixed(names):
        """Returns the names that do not vary between runs or processes."""
        names = {name.split("/events.")[0] for name in names}
        return {x for x in names if not re.search(r"/d/|/ocdbt|s_\d", x)}

    # All files are there except checksums and cached features. The cache also
    # has copies of memory-mapped files.
    kept = {name for name in local if "/features/" in name}
    proofs = {name for name in local if name.endswith("/checksums.json")}
    assert fixed(local - proofs - kept) == fixed(remote)
    folder = cache / "mixer_jax" / "gs" / "shared" / "runs" / "toy"
    mapped = {name for name in local if name.endswith("/categories.arrow")}
    assert kept | mapped == {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_model_and_proxies_are_readable(killed, run, toy, whole, tmp_path):
    mesh = mesh_lib.make_mesh()
    assert workdir_lib.latest_step(run / "stage3") == 12
    (model,) = runs.find_models(run, ["stage3"])
    trained = checkpoints.load_model(model.workdir, mesh)
    local = checkpoints.load_model(whole / "stage3", mesh)
    assert list(trained.category_ids) == list(local.category_ids)
    for one, two in zip(
        trained.variables["params"]["query_layers"].values(),
        local.variables["params"]["query_layers"].values(),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, atol=1e-4)
    made = export.write(RUN, tmp_path / "proxies")
    assert str(made.workdir) == f"{RUN}/stage3"
    proxies = np.load(tmp_path / "proxies" / export.PROXIES)
    saved = row_files.open_proxies(str(run / "stage3"))
    np.testing.assert_array_equal(proxies, np.concatenate([*saved.blocks()]))
    with pytest.raises(
        UserError, match="The export must be stored on this machine"
    ):
        export.write(RUN, f"{RUN}/proxies")


def train(config, workdir):
    output = io.StringIO()
    console = rich.console.Console(file=output, width=200)
    curriculum.run(config, workdir, MESH, console)
    return output.getvalue()


def test_damaged_checkpoint_is_moved_and_the_run_resumes(
    bucket, cloud, toy, tiny_config
):
    objects = cloud.buckets[bucket.removeprefix("gs://")]
    tiny_config.checkpoint.keep = 3
    tiny_config.log_every = 1
    tiny_config.profile = "2:2"
    train(tiny_config, f"{bucket}/run")
    assert any(
        name.startswith(f"run/{TENSORBOARD}/plugins/profile/")
        for name in objects
    )
    before = objects[f"run/{METRICS}"].data.decode()
    paths.make(f"{bucket}/run/checkpoints/8").rmtree()
    name = "run/checkpoints/6/iterator/metadata"
    objects[name] = objects[name]._replace(data=b"{")
    output = train(tiny_config, f"{bucket}/run")
    assert f"was moved to {bucket}/run/damaged/6" in output
    assert "run/damaged/6/iterator/metadata" in objects
    steps = {name.split("/")[2] for name in objects if "/checkpoints/" in name}
    assert steps == {"3", "6", "8"}
    after = objects[f"run/{METRICS}"].data.decode()
    assert losses(after) == losses(before)


@pytest.mark.parametrize("act", [train, plan.show])
def test_unusable_bucket_raises_an_error_before_data_is_read(
    act, bucket, cloud, tiny_config
):
    tiny_config.data.table = "there is none"
    more = (MESH,) if act is plan.show else ()
    with pytest.raises(UserError, match="there is no bucket gs://nowhere"):
        act(tiny_config, "gs://nowhere/run", *more)
    cloud.frozen.add(bucket.removeprefix("gs://"))
    with pytest.raises(UserError, match="run cannot be written to"):
        act(tiny_config, f"{bucket}/run", *more)
