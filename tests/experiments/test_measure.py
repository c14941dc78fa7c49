"""Rows of models and baselines."""

import shutil

import pytest

from mixer_jax.data.tables import table
from mixer_jax.experiments import baselines, fusions, measure
from mixer_jax.retrieval import runs
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.training.checkpoint import workdir


def test_excluded_documents_are_reported(color_run, colors, monkeypatch):
    root, _ = colors
    # A document that shows a query's own image.
    own = (root / "red_query_forward.png").read_bytes()
    (root / "red_document_forward.png").write_bytes(own)
    monkeypatch.setattr(
        baselines, "measure_baselines", lambda *_: [{"model": "baseline"}]
    )
    monkeypatch.setattr(
        fusions, "measure_fusions", lambda *_: [{"model": "fusion"}]
    )
    messages = []
    measured = measure.measure_models(
        runs.find_models(color_run / "stage1"),
        make_mesh(),
        baselines=True,
        say=messages.append,
    )
    rows = [row for rows in measured for row in rows]
    assert rows[0] == {"model": "baseline"}
    assert rows[-1] == {"model": "fusion"}
    forward = next(r for r in rows[1:-1] if r["split"] == "test/forward")
    assert (forward["excluded"], forward["queries"]) == (1, 3)
    assert any("own image" in message for message in messages)


@pytest.fixture
def noted(color_run, colors, monkeypatch):
    """A run whose stages recorded their training rows."""
    root, _ = colors
    rows = table.select(table.read_table(root / "colors.csv"), "train")
    noted = {"split": {"samples": 1, "rows": identity.hash_rows(rows)}}
    for stage in ("stage1", "stage2"):
        origin = workdir.read_origin(color_run / stage)
        workdir.write_origin(color_run / stage, origin | noted)
    monkeypatch.setattr(baselines, "measure_baselines", lambda *_: [])
    monkeypatch.setattr(fusions, "measure_fusions", lambda *_: [])
    return color_run


def measured(run, **options):
    models = runs.find_models(run)
    return list(
        measure.measure_models(models, make_mesh(), say=print, **options)
    )


def test_training_table_with_other_rows_raises_an_error(noted, colors):
    root, frame = colors
    same, other = root / "same.parquet", root / "other.csv"
    table.write_table(frame, same)
    row = frame.index[frame["split"].str.startswith("train")][0]
    frame = frame.copy()
    frame.loc[row, "group"] = "another"
    table.write_table(frame, other)
    assert measured(noted, training_table=str(same), baselines=True)
    for given in ({"baselines": True}, {}):
        with pytest.raises(UserError, match=r"other\.csv differ from those"):
            measured(noted, training_table=str(other), **given)
    # The table itself was edited after training.
    shutil.copy(other, root / "colors.csv")
    assert measured(noted)
    with pytest.raises(UserError, match=r"colors\.csv differ from those"):
        measured(noted, baselines=True)
    assert measured(noted / "stage1", baselines=True, training_table=str(same))
