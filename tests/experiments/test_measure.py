"""The rows of models, and of the baselines beside them."""

from mixer_jax.experiments import baselines, fusions, measure
from mixer_jax.retrieval import runs
from mixer_jax.runtime.mesh import make_mesh


def test_what_was_left_out_is_said(color_run, colors, monkeypatch):
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
    said = []
    measured = measure.measure_models(
        runs.find_models(color_run / "stage1"),
        make_mesh(),
        baselines=True,
        say=said.append,
    )
    rows = [row for found in measured for row in found]
    assert rows[0] == {"model": "baseline"}
    assert rows[-1] == {"model": "fusion"}
    forward = next(r for r in rows[1:-1] if r["split"] == "test/forward")
    assert (forward["excluded"], forward["queries"]) == (1, 3)
    assert any("own image" in line for line in said)
