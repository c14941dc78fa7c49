"""Tests the search benchmark with a stand-in for faiss.

No test asserts a time.
"""

import json
import sys
import types

import numpy as np
import pytest

from benchmarks import ceilings, search

SMALL = [
    "--documents=300,500",
    "--dim=8",
    "--queries=1,3",
    "--k=4",
    "--rounds=1",
]


class Flat:
    """The interface of faiss's IndexFlatIP."""

    def __init__(self, dim):
        self.rows = np.zeros((0, dim), np.float32)

    def add(self, rows):
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries, k):
        cosine = queries @ self.rows.T
        number = np.argsort(-cosine, axis=1)[:, :k]
        return np.take_along_axis(cosine, number, 1), number


@pytest.fixture
def faiss(monkeypatch):
    module = types.SimpleNamespace(
        IndexFlatIP=Flat, omp_set_num_threads=lambda count: None
    )
    monkeypatch.setitem(sys.modules, "faiss", module)
    monkeypatch.setattr(ceilings, "SIDE", {"cpu": 128})
    monkeypatch.setattr(ceilings, "MIB", {"cpu": 4})


def test_rows_have_both_engines_and_kinds_of_data(faiss, tmp_path, capsys):
    features, path = tmp_path / "features.npz", tmp_path / "rows.json"
    rng = np.random.default_rng(0)
    np.savez(features, image=rng.normal(size=(30, 12)).astype(np.float32))
    given = [*SMALL, f"--features={features}", f"--json={path}"]
    assert search.main(given) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == 2 * 2 * 2 * 2
    for row in rows:
        assert set(search.COLUMNS) < set(row)
        assert row["recall"] == 1
        assert row["ms"] > 0
        assert row["share_of_peak"] > 0
    assert {row["engine"] for row in rows} == {"faiss", "mixer_jax"}
    assert {row["data"] for row in rows} == {"isotropic", "real"}
    assert {row["documents"] for row in rows} == {300, 500}
    assert "mixer_jax | isotropic | 500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--documents=many"], ["--documents=many", "positive numbers"]),
        (["--k=0"], ["--k=0"]),
        (["--features=none.npz"], ["--features=none.npz", "categorize"]),
    ],
)
def test_wrong_arguments(faiss, arguments, words, capsys):
    assert search.main([*SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_faiss_must_be_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert search.main(SMALL) == 2
    assert (
        "pip install --target=runs/peers faiss-cpu" in capsys.readouterr().err
    )
