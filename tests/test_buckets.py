"""Commands that use a run copied to a bucket."""

import json

import numpy as np
import pytest

from mixer_jax import embed, evaluate, export, index, report
from mixer_jax.retrieval import runs
from mixer_jax.service import opening


@pytest.fixture
def run(color_run, bucket, cloud):
    """A run of two stages in a bucket."""
    name = bucket.removeprefix("gs://")
    for path in color_run.rglob("*"):
        if path.is_file():
            inside = path.relative_to(color_run.parent).as_posix()
            cloud.put(name, inside, path.read_bytes(), {})
    return f"{bucket}/run"


def test_metrics_and_report_are_written_to_the_bucket(run, cloud, capsys):
    assert evaluate.main([f"--workdir={run}"]) == 0
    assert evaluate.main([f"--workdir={run}", "--stage=stage2"]) == 0
    assert report.main([f"--workdir={run}"]) == 0
    assert f"Wrote {run}/report/index.html" in capsys.readouterr().out
    objects = cloud.buckets[run.split("/")[2]]
    rows = json.loads(objects["run/metrics.json"].data)
    assert {row["stage"] for row in rows} == {"stage1", "stage2"}
    page = objects["run/report/index.html"].data.decode()
    assert "<b>100.0</b>" in page
    assert "red paint" in page


def test_special_characters_in_a_name_are_literal(bucket, cloud):
    name = bucket.removeprefix("gs://")
    for folder in ("a[1]*?", "a1"):
        cloud.put(name, f"{folder}/stage1/config.json", b"{}", {})
    found = runs.find_stages(f"{bucket}/a[1]*?")
    assert list(map(str, found)) == [f"{bucket}/a[1]*?/stage1"]


def test_embeddings_index_and_proxies_are_written_locally(
    run, colors, tmp_path, capsys
):
    table = f"--table={colors[0] / 'colors.csv'}"
    stage = f"--workdir={run}/stage2"
    assert embed.main([stage, table, f"--out={tmp_path / 'made.npz'}"]) == 0
    assert (
        index.main(["build", stage, table, f"--out={tmp_path / 'index'}"]) == 0
    )
    proxies = [stage, f"--out={tmp_path / 'proxies'}", "--to=proxies"]
    assert export.main(proxies) == 0
    with opening.open_with(tmp_path / "index") as made:
        assert str(opening.find_model(made.store)) == f"{run}/stage2"
        assert made.model.step == 4
    assert np.load(tmp_path / "proxies" / "proxies.npy").shape == (2, 3)
    for command, arguments in (
        (embed.main, [f"--out={run}/made.npz"]),
        (index.main, ["build", f"--out={run}/index"]),
    ):
        assert command([*arguments, stage, table]) == 2
        assert "must be stored on this machine" in capsys.readouterr().err


def test_missing_run_or_bucket_is_an_error(bucket, capsys):
    for place, message in (
        (f"{bucket}/run", "no trained stage in gs://"),
        ("gs://nowhere/run", "no such bucket"),
    ):
        assert evaluate.main([f"--workdir={place}"]) == 2
        assert message in capsys.readouterr().err
        assert report.main([f"--workdir={place}"]) == 2
        assert "no run in gs://" in capsys.readouterr().err
