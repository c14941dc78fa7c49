import json

from mixer_jax import sweep
from mixer_jax.experiments import granularity


def run(folder, threshold="0.35,0.7", neighbors="4"):
    arguments = [f"--categories={folder}", f"--truth={folder}/data/table.csv"]
    arguments += [f"--threshold={threshold}", f"--neighbors={neighbors}"]
    return sweep.main(arguments)


def test_grid_is_measured_and_written(own_shop, capsys, monkeypatch):
    # Training is tested with `granularity`.
    monkeypatch.setattr(granularity, "identical_at_1", lambda *_: 0.5)
    assert run(own_shop) == 0
    assert "sweep.json" in capsys.readouterr().out
    result = json.loads((own_shop / "sweep.json").read_text())
    assert [p["threshold"] for p in result["points"]] == [0.35, 0.7]


def test_invalid_arguments_are_rejected(own_shop, tmp_path, capsys):
    assert sweep.main([f"--categories={tmp_path / 'no'}"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no click log")
    (own_shop / "log" / "clicks_later.csv").unlink()
    assert sweep.main([f"--categories={own_shop}"]) == 2
    assert "--truth" in capsys.readouterr().err


def test_resumed_sweep_measures_no_point_again(own_shop, capsys, monkeypatch):
    measured = []

    def identical_at_1(*_):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(len(measured))
        return measured[-1] / 10

    monkeypatch.setattr(granularity, "identical_at_1", identical_at_1)
    assert run(own_shop, neighbors="4,5") == 75
    assert not (own_shop / "sweep.json").exists()
    again = []
    monkeypatch.setattr(
        granularity, "identical_at_1", lambda *_: again.append(1) or 0.9
    )
    assert run(own_shop, neighbors="4,5") == 0
    assert len(again) == 3
    result = json.loads((own_shop / "sweep.json").read_text())
    assert result["true_categories"] == 0.0
    assert result["used"]["identical_at_1"] == 0.1
    points = result["points"]
    assert [p["identical_at_1"] for p in points] == [0.2, 0.9, 0.9, 0.9]
    assert [p["threshold"] for p in points] == [0.35, 0.7] * 2
    assert [p["neighbors"] for p in points] == [4, 4, 5, 5]
    # The next sweep measures everything.
    again.clear()
    assert run(own_shop, neighbors="4,5") == 0
    assert len(again) == 6


def test_damaged_or_outdated_points_are_not_reused(own_shop, monkeypatch):
    asked = []

    def identical_at_1(*_):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr(granularity, "identical_at_1", identical_at_1)
    assert run(own_shop, threshold="0.35") == 75
    kept = own_shop / granularity.KEPT
    text = kept.read_text()
    for damaged in ("[", "{}", "[]", text[:-9], text.replace('": "', '": "0')):
        kept.write_text(damaged)
        asked[:] = [1] * 3
        assert run(own_shop, threshold="0.35") == 0
        assert len(asked) == 6
        assert not kept.exists()
