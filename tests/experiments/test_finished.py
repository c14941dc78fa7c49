import numpy as np
import pytest

from mixer_jax.experiments.finished import Finished, identify


def test_finished_measurements_are_not_repeated(tmp_path):
    path = tmp_path / "points.json"
    calls = []
    for _ in range(2):
        finished = Finished(path, "data")
        figures = finished.once("a", lambda: calls.append(1) or {"x": 1.5})
        assert figures == {"x": 1.5}
    assert calls == [1]


def test_figures_of_other_data_are_ignored(tmp_path):
    path = tmp_path / "points.json"
    Finished(path, "data").add("a", 1)
    assert "a" in Finished(path, "data")
    assert "a" not in Finished(path, "other data")


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff", b"[]", b'{"data": "data"}']
)
def test_damaged_file_is_ignored(tmp_path, content):
    path = tmp_path / "points.json"
    path.write_bytes(content)
    finished = Finished(path, "data")
    assert finished.once("a", lambda: 2) == 2
    assert Finished(path, "data")["a"] == 2


def test_without_a_path_figures_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = Finished(None, "data")
    finished.add("a", 1)
    assert finished["a"] == 1
    assert not list(tmp_path.iterdir())


def test_identity_depends_on_values_shapes_and_texts():
    array = np.arange(6.0)
    same = identify([array], "a", "b")
    assert identify([array.copy()], "a", "b") == same
    others = [
        identify([array + 1], "a", "b"),
        identify([array.reshape(2, 3)], "a", "b"),
        identify([array.astype(np.float32)], "a", "b"),
        identify([array], "ab"),
    ]
    assert len({same, *others}) == 5
