"""The training command, run as a user would."""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.prepared import build, generations
from mixer_jax.data.tables import table as tables
from mixer_jax.training.checkpoint import checkpoints, row_files

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "mixer_jax.main")
SMALL = (
    "--config.model.image.name=resnet18",
    "--config.model.image.pretrained=",
    "--config.model.fusion=image_only",
    "--config.data.image_size=32",
    "--config.data.max_skipped=0",
    "--config.batch_size=8",
    "--config.steps=8",
    "--config.checkpoint.every=2",
    "--config.monitors.every=3",
    "--config.head.active=1",
    "--config.head.refresh=3",
)


def environment(cache):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


def run(folder, *flags):
    return subprocess.run(
        [*COMMAND, *flags],
        cwd=ROOT,
        env=environment(folder / "compiled"),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of six categories with two queries and two documents each."""
    folder = tmp_path_factory.mktemp("data")
    samples = []
    for number in range(24):
        category, role = number // 4, ("query", "document")[number % 2]
        color = tuple(np.random.default_rng(category).integers(0, 255, 3))
        Image.new("RGB", (32, 32), tuple(map(int, color))).save(
            folder / f"{number}.png"
        )
        samples.append(
            {
                "sample_id": str(number),
                "role": role,
                "image": f"{number}.png",
                "text": f"color {category}" if role == "document" else "",
                "category_id": f"c{category}",
                "group": "",
                "split": "train",
            }
        )
    path = folder / "table.csv"
    pd.DataFrame(samples).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config=configs/stage1.py", "--config.optimizer.learning_rat=1"],
            "no key 'optimizer.learning_rat'. Similar keys: optimizer.learni",
        ),
        (["--config=configs/stage9.py"], "no config file configs/stage9.py"),
        (["--config=configs/stage1.py:big"], "takes :runlocal, not :big"),
        (
            ["--config=configs/stage1.py", "--config.steps=many"],
            "--config.steps=many",
        ),
        (["--config=configs/stage1.py", "extra"], "Unknown argument 'extra'"),
        (["--config=configs/stage1.py", "--dry_rum"], "dry_rum"),
        (
            [
                "--config=configs/stage2.py:runlocal",
                "--config.init_from=runs/none",
            ],
            "Run this first:\n  python -m mixer_jax.main "
            "--config=configs/stage1.py:runlocal --workdir=runs/local/stage1",
        ),
    ],
)
def test_invalid_arguments_exit_without_a_traceback(tmp_path, flags, message):
    done = run(tmp_path, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dry_run_prints_the_plan_without_training(tmp_path, table):
    done = run(
        tmp_path,
        "--config=configs/stage1.py:runlocal",
        f"--config.data.table={table}",
        f"--workdir={tmp_path / 'run'}",
        "--dry-run",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    assert "12 queries, 12 documents, 6 categories" in done.stdout
    assert "image_encoder/" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_prepared_data_of_a_newer_format_are_refused(tmp_path, table):
    flags = (
        "--config=configs/stage1.py:runlocal",
        f"--config.data.table={table}",
        f"--config.data.prepared={tmp_path / 'prepared'}",
        *SMALL,
    )
    frame = tables.select(tables.read_table(table), "train")
    build.prepare(frame, table.parent, tmp_path / "prepared")
    (record,) = (tmp_path / "prepared").rglob("manifest.json")
    newer = json.dumps({"format": generations.FORMAT + 1})
    record.write_text(newer)
    done = run(tmp_path, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert f"The prepared data in {record.parent} has format" in done.stderr
    assert "Traceback" not in done.stderr
    assert record.read_text() == newer


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_result(tmp_path, table):
    """A run is killed twice at random moments, then resumed."""
    flags = (
        "--config=configs/stage1.py:runlocal",
        f"--config.data.table={table}",
        *SMALL,
    )
    whole = run(tmp_path, *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    rng = random.Random(time.time_ns())
    for _ in range(2):
        with subprocess.Popen(
            [*COMMAND, *flags, f"--workdir={broken}"],
            cwd=ROOT,
            env=environment(tmp_path / "compiled"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as killed:
            for line in killed.stdout:  # until it reports its first step
                if re.search(r"step \d+/", line):
                    break
            time.sleep(rng.uniform(0, 0.3))
            killed.kill()
    resumed = run(tmp_path, *flags, f"--workdir={broken}")
    assert resumed.returncode == 0, resumed.stderr
    one, other = (
        checkpoints.load_model(folder)
        for folder in (tmp_path / "whole", broken)
    )
    assert one.step == other.step == 8
    for path, (a, b) in pairs(one.variables, other.variables):
        np.testing.assert_array_equal(a, b, err_msg=path)
    a, b = (proxies(folder) for folder in (tmp_path / "whole", broken))
    np.testing.assert_array_equal(a, b)
    lines = (broken / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    for name, steps in (("loss", [2, 4, 6, 8]), ("proxy_cosine", [3, 6])):
        assert [line["step"] for line in lines if name in line] == steps


def pairs(one, other):
    import jax

    one, other = (
        jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other)
    )
    for (path, a), (_, b) in zip(one, other, strict=True):
        yield jax.tree_util.keystr(path), (a, b)


def proxies(folder):
    return np.concatenate(list(row_files.open_proxies(folder).blocks()))
