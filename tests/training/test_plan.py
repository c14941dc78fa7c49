"""The plan that --dry-run prints."""

import io
import re

import jax
import rich.console

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import plan
from mixer_jax.training.config import defaults as config_lib


def show(config, workdir, **options):
    said = io.StringIO()
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    console = rich.console.Console(file=said)
    plan.show(config, workdir, mesh, console, **options)
    return said.getvalue()


def test_plan_lists_all_counts_and_parameters(toy, tiny_config, tmp_path):
    tiny_config.optimizer.parts = (("text_encoder", 0.0),)
    tiny_config.head.name = "knn"
    said = show(tiny_config, tmp_path / "run")
    assert "24 queries, 24 documents, 12 categories; 0 skipped" in said
    assert "8, each on 16 samples; 2.7 epochs" in said
    (text,) = [line for line in said.splitlines() if "text_encoder" in line]
    assert re.search(r"\(512, 16\) +│ +8,192 .* no +│ +0 ", text)
    (rows,) = [line for line in said.splitlines() if " proxies " in line]
    assert "'data'" in rows
    assert "graph" in said
    assert not (tmp_path / "run").exists()


def test_no_data_is_read_if_categories_are_given(toy, tiny_config, tmp_path):
    tiny_config.data.table = "nowhere.csv"
    said = show(tiny_config, tmp_path, categories=1000)
    assert "table  not read" in said
    assert "(1000, 16)" in said


def test_memory_grows_with_the_state(toy, tiny_config, tmp_path):
    """Twice the categories, the same more of proxies and momentum."""

    def gigabytes(categories):
        said = show(tiny_config, tmp_path, categories=categories)
        return float(re.search(r"([\d.]+) GB for state and batch", said)[1])

    # Two devices hold 16 numbers of 4 bytes a row, and the velocity's.
    more = 4_000_000 * 16 * 4 * 2 / 2 / 1e9
    found = gigabytes(8_000_000) - gigabytes(4_000_000)
    assert abs(found - more) < 0.01 * more + 0.002


def test_plan_reports_a_missing_stage(toy, tiny_config, tmp_path):
    tiny_config.init_from = str(tmp_path / "none")
    assert "Run this first:" in show(tiny_config, tmp_path / "run")


def test_plan_shows_every_stage_of_a_curriculum(toy, tiny_config, tmp_path):
    second = tiny_config.copy_and_resolve_references()
    second.steps = 5
    config = config_lib.curriculum(stage1=tiny_config, stage2=second)
    workdir = tmp_path / "[/v3]" / "[v2] :smile: 'a'"
    said = show(config, workdir)
    assert "stage1: parameters" in said
    assert "stage2: parameters" in said
    assert f"workdir  {workdir / 'stage1'} (at step 0 of 8)\n" in said
    assert f"starts from  {workdir / 'stage1'}\n" in said
