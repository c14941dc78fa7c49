"""Reports of complete and incomplete runs."""

import json
import shutil

import pytest

from mixer_jax.data.tables import table
from mixer_jax.reports import run
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.training.checkpoint import workdir


def test_report_of_a_complete_run(color_run, colors):
    root, _ = colors
    (root / "ATTRIBUTION.md").write_text("Painted by nobody, CC0.")
    log = color_run / "log"
    log.mkdir()
    (log / "simulation.json").write_text('{"simulation": true}')
    way = {"combined": {"bcubed_f1": 0.9, "sizes": {"2": 1}}}
    (color_run / "categories.json").write_text(json.dumps(way))
    path = run.build(color_run, make_mesh())
    assert path == color_run / "report" / "index.html"
    html = path.read_text()
    for text in (
        "Loss, stage1",
        "Loss, stage2",
        "Correct at rank 1",
        "Painted by nobody, CC0.",
        "simulated",
        "B-cubed F1",
        "gray paint",
        "no metrics.json",
    ):
        assert text in html, text


def test_report_without_checkpoint_or_log(color_run, tmp_path):
    for stage in ("stage1", "stage2"):
        shutil.rmtree(color_run / stage / "checkpoints")
        (color_run / stage / "metrics.jsonl").unlink()
    out = tmp_path / "page.html"
    html = run.build(color_run / "stage1", make_mesh(), out).read_text()
    assert "no checkpoint" in html
    assert "no curves" in html
    assert "simulated" not in html


def test_tables_can_be_folders_of_parts(color_run, colors):
    root, frame = colors
    (root / "parts").mkdir()
    table.write_table(frame, root / "parts" / "part-0.parquet")
    (root / "colors.csv").unlink()
    messages, parts = [], str(root / "parts")
    page = run.build(
        color_run,
        make_mesh(),
        table=parts,
        training_table=parts,
        say=messages.append,
    )
    assert not messages
    html = page.read_text()
    assert "Correct at rank 1" in html
    assert "gray paint" in html


def test_training_table_with_other_rows_is_reported(color_run, colors):
    root, frame = colors
    rows = table.select(table.read_table(root / "colors.csv"), "train")
    noted = {"split": {"samples": 1, "rows": identity.hash_rows(rows)}}
    folder = color_run / "stage1"
    workdir.write_origin(folder, workdir.read_origin(folder) | noted)
    other, messages = root / "other.csv", []
    frame = frame.copy()
    frame.loc[frame["split"].str.startswith("train"), "group"] = "another"
    table.write_table(frame, other)
    with pytest.raises(UserError, match=r"other\.csv differ from those"):
        run.build(color_run, make_mesh(), training_table=str(other))
    shutil.copy(other, root / "colors.csv")
    page = run.build(color_run, make_mesh(), say=messages.append)
    assert any("colors.csv differ from those" in text for text in messages)
    assert "Correct at rank 1" in page.read_text()
    assert "gray paint" not in page.read_text()
