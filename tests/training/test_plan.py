"""The plan printed by --dry-run."""

import io
import re

import jax
import pytest
import rich.console

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import plan
from mixer_jax.training.config import defaults as config_lib


def show(config, workdir, **options):
    output = io.StringIO()
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    console = rich.console.Console(file=output)
    plan.show(config, workdir, mesh, console, **options)
    return output.getvalue()


@pytest.mark.slow
def test_plan_lists_all_counts_and_parameters(toy, tiny_config, tmp_path):
    tiny_config.optimizer.parts = (("text_encoder", 0.0),)
    tiny_config.head.name = "knn"
    output = show(tiny_config, tmp_path / "run")
    assert "24 queries, 24 documents, 12 categories; 0 skipped" in output
    assert "8, each on 16 samples; 2.7 epochs" in output
    (text,) = [line for line in output.splitlines() if "text_encoder" in line]
    assert re.search(r"\(512, 16\) +│ +8,192 .* no +│ +0 ", text)
    (rows,) = [line for line in output.splitlines() if " proxies " in line]
    assert "'data'" in rows
    assert "graph" in output
    assert not (tmp_path / "run").exists()


def test_no_data_is_read_if_categories_are_given(toy, tiny_config, tmp_path):
    tiny_config.data.table = "nowhere.csv"
    output = show(tiny_config, tmp_path, categories=1000)
    assert "table  not read" in output
    assert "(1000, 16)" in output


@pytest.mark.slow
def test_memory_grows_with_the_state(toy, tiny_config, tmp_path):
    """Doubling the categories doubles proxies and momentum."""

    def gigabytes(categories):
        output = show(tiny_config, tmp_path, categories=categories)
        return float(re.search(r"([\d.]+) GB for state and batch", output)[1])

    # Each row has 16 numbers of 4 bytes, and so does its momentum.
    more = 4_000_000 * 16 * 4 * 2 / 2 / 1e9
    found = gigabytes(8_000_000) - gigabytes(4_000_000)
    assert abs(found - more) < 0.01 * more + 0.002


def test_plan_reports_a_missing_stage(toy, tiny_config, tmp_path):
    tiny_config.init_from = str(tmp_path / "none")
    assert "Run this first:" in show(tiny_config, tmp_path / "run")


@pytest.mark.slow
def test_plan_shows_every_stage_of_a_curriculum(toy, tiny_config, tmp_path):
    second = tiny_config.copy_and_resolve_references()
    second.steps = 5
    config = config_lib.curriculum(stage1=tiny_config, stage2=second)
    workdir = tmp_path / "[/v3]" / "[v2] :smile: 'a'"
    output = show(config, workdir)
    assert "stage1: parameters" in output
    assert "stage2: parameters" in output
    assert f"workdir  {workdir / 'stage1'} (at step 0 of 8)\n" in output
    assert f"starts from  {workdir / 'stage1'}\n" in output
