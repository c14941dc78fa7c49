"""Fixtures, with eight CPU devices, no network and strict numerics."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from absl import flags
from PIL import Image

from mixer_jax.data.tables import table
from mixer_jax.experiments import frozen
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import checkpoints, workdir
from mixer_jax.training.config import defaults as config_lib
from tests import color_model, several, tiny_models

# launch/test.sh installs PyTorch and Playwright here; no command needs them.
for _package in ("torch==*", "playwright*"):
    sys.path += map(str, pathlib.Path(sys.prefix).glob(_package))

# Use the same examples in every run; add failing ones as explicit examples.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")

jax.config.update("jax_num_cpu_devices", 8)
if jax.__version_info__ < (0, 11):
    # This halves compile times, including those of commands started by tests;
    # later versions do not have the flag.
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_numpy_rank_promotion", "raise")
# Grain reads absl flags, which only absl.app parses.
flags.FLAGS.mark_as_parsed()


def _restore_signals():
    """Restores default handlers of signals ignored in background commands.

    Tests send signals to themselves and to the commands that they start.
    SIGHUP stays ignored, because `nohup` is intentional.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupt = number == signal.SIGINT
            signal.signal(
                number,
                signal.default_int_handler if interrupt else signal.SIG_DFL,
            )


_restore_signals()


def pytest_collection_modifyitems(items):
    """Starts the slowest file first, so that the others run alongside."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(autouse=True)
def kill_processes():
    """Kills the remaining processes of each test, even if it failed."""
    yield
    several.end_all()


# Many tests compile their programs for every device count.
COUNTS = [
    pytest.param(count, marks=pytest.mark.slow) if count in (1, 4) else count
    for count in (1, 2, 4, 8)
]


@pytest.fixture(params=COUNTS)
def num_devices(request):
    """A device count at which sharded computations are compared."""
    return request.param


# Folders whose tests compile small programs.
QUICK = {
    *("benchmarks", "categories", "experiments", "models", "proxies"),
    *("retrieval", "search", "training"),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(request):
    """Turns off optimizations where compiling takes longer than running."""
    quick = not QUICK.isdisjoint(request.path.parts)
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """The compilation cache of all tests and the commands they start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by all workers
    folder = str(folder / "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        # Commands take longer to compile than to run.
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A folder into which the package's wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    tree = folder / "tree"
    tree.mkdir()
    names = ["mixer_jax", "configs", "pyproject.toml", "README.md", "LICENSE"]
    root = pathlib.Path(__file__).parents[1]
    subprocess.run(["cp", "-a", *names, tree], cwd=root, check=True)
    options = ["--no-deps", f"--wheel-dir={folder}"]
    subprocess.run([*pip, "wheel", *options, tree], check=True)
    (made,) = folder.glob("*.whl")
    target = f"--target={folder / 'installed'}"
    subprocess.run([*pip, "install", "--no-deps", target, made], check=True)
    return folder / "installed"


COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "gray": (90, 90, 90),
    "white": (250, 255, 255),
}


@pytest.fixture
def colors(tmp_path):
    """A folder with a table `colors.csv` of four test and two train colors."""
    rng = np.random.default_rng(0)
    root, samples = tmp_path / "data", []
    root.mkdir()
    for color, pixel in COLORS.items():
        split = "train" if color in ("gray", "white") else "test"
        for part in ("forward", "reverse"):
            for role in (table.QUERY, table.DOCUMENT):
                name = f"{color}_{role}_{part}"
                noise = rng.integers(-20, 20, (8, 8, 3))
                pixels = np.clip(np.array(pixel) + noise, 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / f"{name}.png")
                text = f"{color} paint" if role == table.DOCUMENT else ""
                group = "warm" if color in ("red", "yellow") else "cold"
                samples.append(
                    dict(
                        sample_id=name,
                        role=role,
                        image=f"{name}.png",
                        text=text,
                        category_id=color,
                        group=group,
                        split=f"{split}/{part}",
                    )
                )
    table.write_table(pd.DataFrame(samples), root / "colors.csv")
    return root, table.read_table(root / "colors.csv")


@pytest.fixture
def color_run(colors, tmp_path, monkeypatch):
    """A run of two finished stages of the untrained `ColorModel`."""
    root, _ = colors
    color_model.use_it(monkeypatch.setattr)
    config = config_lib.defaults()
    config.data.table = str(root / "colors.csv")
    config.data.image_size = 8
    config.data.text_length = 8
    config.data.threads = 0
    config.model.dim = 3
    config.evaluate.batch_size = 8
    run, mesh = tmp_path / "run", make_mesh()
    for config.name in ("stage1", "stage2"):
        folder = run / config.name
        workdir.prepare(folder, config, ["gray", "white"])

        state = state_lib.TrainState(
            step=jnp.int32(4),
            skipped=jnp.int32(0),
            params=color_model.init(None, config, jax.random.key(0))["params"],
            batch_stats={},
            opt_state={},
            proxies=jnp.zeros((8, 3)),
            proxy_state={},
            graph=None,
        )
        state = jax.device_put(state, state_lib.shardings(state, mesh))
        with checkpoints.Checkpoints(folder) as saved:
            saved.save(4, state, {}, force=True)
        lines = (
            {"step": step, "stage": config.name, "loss": 9.0 / step}
            | {"learning_rate": 1e-3, "proxy_cosine": 0.1 * step}
            for step in (1, 2, 4)
        )
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(log)
    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A read-only folder of found categories; see `shop`."""
    from tests import shop

    root = tmp_path_factory.mktemp("shop")
    shop.build(root)
    return root


@pytest.fixture
def own_shop(shop, tmp_path):
    """A writable copy of the `shop`."""
    # Cached features are found by modification time, so keep the times.
    return shutil.copytree(shop, tmp_path / "shop")


@pytest.fixture
def trained(color_run):
    """The model of the last stage of the `color_run`."""
    return checkpoints.load_model(color_run / "stage2")


@pytest.fixture(scope="session")
def cloud():
    """A server with buckets; see `fake_gcs`."""
    from tests import fake_gcs

    with fake_gcs.Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def bucket(cloud, tmp_path, monkeypatch):
    """The `gs://` path of a new bucket that this process can access."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"bucket-{len(cloud.buckets)}"
    cloud.buckets[name] = {}
    return f"gs://{name}"


@pytest.fixture
def disk(tmp_path):
    """A mounted file system of 100 kB; remount it for another size."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("This user cannot mount a file system.")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def tiny_towers(monkeypatch):
    """Random towers with tiny encoders, as if loaded from a workdir."""
    return tiny_models.make(monkeypatch.setitem)


_SPLITS = {"red": "val", "green": "val", "blue": "test", "yellow": "test"}


@pytest.fixture
def tiny_table(colors):
    """A table with two categories in each of train, val and test."""
    root, frame = colors
    parts = frame["split"].str.partition("/")[2]
    splits = frame["category_id"].map(_SPLITS).fillna("train")
    path = root / "folds" / "one.csv"
    path.parent.mkdir()
    images = f"{root}/" + frame["image"]
    table.write_table(
        frame.assign(split=splits + "/" + parts, image=images), path
    )
    return path


@pytest.fixture
def tiny_encoders(tiny_towers, monkeypatch):
    """Replaces the pretrained encoders with tiny, random ones."""
    monkeypatch.setattr(frozen, "load", lambda size, length: tiny_towers)
    return tiny_towers
