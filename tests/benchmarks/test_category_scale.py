"""Tests which rows the category-scale benchmark writes, not their values."""

import json

import numpy as np
import pytest

from benchmarks import category_run, category_scale
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.runtime.tabular import strings
from tests import several

PHASES = ["initialize", "imprint", "train", "save", "restore", "grow", "export"]


@pytest.mark.slow
def test_rows_of_the_json(tmp_path, capsys, compiled, monkeypatch):
    # Each phase runs in its own process and compiles the same programs.
    variables = several.environment(1, compiled)
    del variables["JAX_NUM_CPU_DEVICES"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "rows.json"
    arguments = ["--categories=1200", "--dim=8", f"--folder={tmp_path}"]
    arguments += ["--head=knn", "--neighbors=5", "--optimizer=adam"]
    assert category_scale.main([*arguments, f"--json={out}"]) == 0
    rows = json.loads(out.read_text())
    assert [row["phase"] for row in rows] == PHASES
    assert [row["devices"] for row in rows] == [2] * 4 + [3] * 3
    row_bytes = 3 * 8 * 4 + 4 + 5 * 4  # rows, moments, count, neighbors
    for row in rows:
        share = 0 if row["phase"] == "export" else 1200 * row_bytes
        assert row["share_mb"] == pytest.approx(share / 1e6)
        beyond = row["peak_mb"] - row["share_mb"]
        assert row["beyond_mb"] == pytest.approx(beyond)
        assert beyond > 50
        assert row["seconds"] > 0
        assert (row["head"], row["categories"]) == ("knn", 1200)
    shown = capsys.readouterr().out
    assert f"{rows[0]['beyond_mb']:,.0f}" in shown
    assert "1,200 categories" in shown


def test_phases_train_restore_and_export_the_same_proxies(tmp_path):
    category_run.write(tmp_path, 1200)
    job = category_run.Job(str(tmp_path), 1200, 8, "sampled", 4, "sgd", ())
    run = category_run.Run(job)
    for phase in PHASES[:4]:
        getattr(run, phase)()
    trained = np.asarray(run.state.proxies)[:1200]
    other = category_run.Run(job)
    other.restore()
    np.testing.assert_array_equal(other.state.proxies[:1200], trained)
    other.export()
    exported = tmp_path / "export"
    np.testing.assert_array_equal(np.load(exported / "proxies.npy"), trained)
    ids = json.loads((exported / "categories.json").read_text())
    assert ids == list(category_run.Names(1200))
    grown = category_run.Run(job)
    grown.grow()
    place = {name: row for row, name in enumerate(ids)}
    found = np.asarray(grown.state.proxies)
    for row, name in enumerate(category_run.Names(1200, grown=True)):
        if name in place:
            np.testing.assert_array_equal(found[row], trained[place[name]])
        else:
            assert name.endswith("new")


def test_samples_are_consistent(tmp_path):
    category_run.write(tmp_path, 1200)
    samples = samples_lib.read(tmp_path / category_run.SAMPLES)
    assert len(samples) == 2400
    for role in samples_lib.ROLES:
        assert (samples.counts(role) == 1).all()
        rows = [samples.of_category(role, c)[0] for c in range(1200)]
        assert samples.labels[rows].tolist() == list(range(1200))
        assert sorted(rows) == samples.of_role(role).tolist()
        assert (samples.select(rows, role) == rows).all()


def test_grown_ids_are_sorted_and_replace_one_in_a_hundred(tmp_path):
    old, new = category_run.Names(1200), category_run.Names(1200, grown=True)
    assert strings.is_ascending(old)
    assert strings.is_ascending(new)
    assert len(set(old) - set(new)) == len(set(new) - set(old)) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--categories=10"], "--categories=10 must be a multiple of 100"),
        (["--categories=1050"], "--categories=1050 must be a multiple of 100"),
        (["--dim=0"], "--dim=0 must be 1 or more"),
        (["--neighbors=0"], "--neighbors=0 must be 1 or more"),
        (["--devices=2"], "--devices=2 must be two numbers"),
        (["--devices=2,x"], "--devices=2,x must be two numbers"),
    ],
)
def test_invalid_arguments_end_with_a_sentence(arguments, message, capsys):
    assert category_scale.main(arguments) == 2
    assert message in capsys.readouterr().err
