"""Tests that the head benchmark compares equal steps and checks its arguments.

No test asserts a time.
"""

import copy
import json
import math

import jax
import numpy as np
import pytest

from benchmarks import arrays as arrays_lib
from benchmarks import ceilings, contenders, heads, partial_fc_torch
from mixer_jax.runtime import mesh as meshes

KEYS = (
    "head",
    "classes",
    "dim",
    "batch",
    "active",
    "devices",
    "step_ms",
    "peak_mb",
    "flops_per_s",
    "bytes_per_s",
    "ratio_to_dense",
)
SMALL = ("--classes=512", "--dim=16", "--batch=32", "--rounds=2")
# 37 categories are not divisible by 8 devices.
PROBLEM = contenders.Problem(37, 16, 32)


@pytest.fixture
def small_ceilings(monkeypatch):
    for name, value in (("SIDE", 128), ("MIB", 4)):
        monkeypatch.setattr(ceilings, name, {"cpu": value})


def _arrays(mesh):
    return arrays_lib.make_arrays(
        PROBLEM.classes, PROBLEM.dim, PROBLEM.batch, 0, mesh
    )


def _two_steps(name, arrays, mesh):
    """Runs two steps; returns losses, embedding gradients, and arrays."""
    arrays = copy.copy(arrays)
    # Steps donate their arguments.
    arrays.proxies, arrays.momentum = jax.tree.map(
        lambda x: x.copy(), (arrays.proxies, arrays.momentum)
    )
    one = contenders.make_contender(PROBLEM, mesh, name, 1.0)
    first, _ = one.run(arrays, jax.random.key(0))
    second, d_embeddings = one.run(arrays, jax.random.key(1))
    return jax.device_get(
        (first, second, d_embeddings, arrays.proxies, arrays.momentum)
    )


@pytest.mark.slow
def test_rows_of_the_json(tmp_path, capsys, small_ceilings):
    out = tmp_path / "heads.json"
    arguments = [
        *SMALL,
        "--heads=dense,exact,sampled,knn,topk",
        "--active=0.5",
        "--graph",
        "--graph-classes=100",
        "--head.neighbors=4",
        "--head.active=0.5",
        f"--json={out}",
    ]
    assert heads.main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [(row["head"], row["active"]) for row in rows] == [
        ("dense", 1.0),
        ("exact", 1.0),
        ("sampled", 0.5),
        ("knn", 0.5),
        ("topk", 1.0),
    ]
    for row in rows:
        assert tuple(row)[: len(KEYS)] == KEYS
        assert (row["classes"], row["dim"], row["batch"]) == (512, 16, 32)
        assert row["devices"] == jax.device_count()
        numbers = [*(row[key] for key in KEYS[1:]), *row["quartiles_ms"]]
        numbers += [*row["ceilings"].values(), row["share_of_f32"]]
        assert all(math.isfinite(n) and n > 0 for n in numbers)
        assert "jax" in row["versions"]
    assert rows[0]["ratio_to_dense"] == 1
    assert [row["rows"] for row in rows] == [512, 512, 256, 256, 256]
    assert rows[3]["graph_classes"] == 100
    printed = capsys.readouterr().out
    assert rows[0]["machine"] in printed
    assert "knn" in printed


def test_dense_matches_exact(num_devices):
    mesh = meshes.make_mesh(jax.devices()[:num_devices])
    arrays = _arrays(mesh)
    for dense, exact in zip(
        _two_steps("dense", arrays, mesh),
        _two_steps("exact", arrays, mesh),
        strict=True,
    ):
        largest = np.abs(exact).max()
        np.testing.assert_allclose(dense, exact, rtol=0, atol=1e-5 * largest)


def test_the_peer_matches_exact():
    torch = pytest.importorskip("torch")
    mesh = meshes.make_mesh(jax.devices()[:1])
    arrays = _arrays(mesh)
    config = PROBLEM.config()
    peer = partial_fc_torch.PartialFC(
        torch.tensor(np.array(arrays.proxies)),
        PROBLEM.classes,
        config.scale,
        config.margin_size,
    )
    embeddings = torch.tensor(np.array(arrays.embeddings))
    labels = torch.tensor(np.array(arrays.labels)).long()
    first, _ = peer.step(embeddings, labels)
    second, d_embeddings = peer.step(embeddings, labels)
    results = (first, second, d_embeddings, peer.proxies, peer.momentum)
    for theirs, exact in zip(
        results, _two_steps("exact", arrays, mesh), strict=True
    ):
        largest = np.abs(exact).max()
        np.testing.assert_allclose(
            theirs.numpy(), exact, rtol=0, atol=1e-5 * largest
        )


def test_the_peer_samples_positives_and_random_others():
    torch = pytest.importorskip("torch")
    peer = partial_fc_torch.PartialFC(torch.zeros(100, 4), 20, 32.0, 0.25)
    labels = torch.tensor([7, 3, 7, 99])
    drawn = [peer.sample(labels) for _ in range(50)]
    for rows in drawn:
        assert len(set(rows.tolist())) == 20
        assert {3, 7, 99} <= set(rows.tolist())
        assert rows.tolist() == sorted(rows.tolist())
    assert len(set(torch.cat(drawn).tolist())) == 100


def test_arrays_are_valid(num_devices):
    mesh = meshes.make_mesh(jax.devices()[:num_devices])
    made = arrays_lib.make_arrays(37, 16, 32, 4, mesh)
    norms = np.linalg.norm(made.proxies, axis=-1)
    np.testing.assert_allclose(norms[:37], 1, rtol=1e-5)
    assert not norms[37:].any()
    assert made.proxies.sharding.is_equivalent_to(meshes.rows(mesh), 2)
    graph = np.array(made.graph)[:37]
    assert graph.dtype == np.int32
    assert graph.min() >= 0
    assert graph.max() < 37
    assert (graph != np.arange(37)[:, None]).all()
    assert len(np.unique(made.labels)) > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--heads=exact,exakt"], ["exakt", "dense", "topk"]),
        (["--active=0"], ["0", "(0, 1]"]),
        (["--active=0.1,1.5"], ["1.5", "(0, 1]"]),
        (["--active=much"], ["much", "(0, 1]"]),
        (["--active=0.001", "--heads=knn"], ["active"]),
        (["--rounds=0"], ["--rounds", "1"]),
        (["--batch=33"], ["--batch", "33", "8"]),
        (["--head.chunks=3"], ["head.chunk"]),
        (["--head.chunk=few"], ["head.chunk", "few"]),
        (["--head.margin=arcface"], ["arcface", "cosface"]),
        (["--head.subcenters=2"], ["head.subcenters", "2"]),
        (["--head=3"], ["--head.key=value"]),
        (["--heads=dense", "--graph"], ["knn"]),
    ],
)
def test_invalid_arguments_are_errors(arguments, words, capsys):
    assert heads.main([*SMALL, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(word in message for word in words)
    assert message.count("\n") == 1


def test_an_unavailable_head_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(contenders.heads.factory, "HEADS", {})
    assert heads.main([*SMALL, "--heads=topk"]) == 2
    assert "topk" in capsys.readouterr().err


def test_without_torch_the_peer_is_skipped(monkeypatch, capsys, small_ceilings):
    monkeypatch.setattr(partial_fc_torch, "available", lambda: False)
    monkeypatch.setattr(
        heads.memory,
        "measure",
        lambda *given: {"peak_mb": 1.0, "runtime_mb": 1.0},
    )
    assert heads.main([*SMALL, "--heads=exact", "--peers"]) == 0
    assert "torch is not installed" in capsys.readouterr().out


def test_a_head_that_does_not_fit_into_memory_has_a_row(
    tmp_path, monkeypatch, capsys, small_ceilings
):
    out = tmp_path / "heads.json"
    monkeypatch.setattr(
        heads.memory,
        "measure",
        lambda problem, name, active: (
            None if name == "dense" else {"peak_mb": 1.0, "runtime_mb": 1.0}
        ),
    )
    arguments = [*SMALL, "--heads=dense,exact", f"--json={out}"]
    assert heads.main(arguments) == 0
    dense, exact = json.loads(out.read_text())
    assert dense["step_ms"] is None
    assert exact["step_ms"] > 0
    assert exact["ratio_to_dense"] is None
    assert "does not fit" in capsys.readouterr().out
