import json

from mixer_jax import sweep
from mixer_jax.experiments import granularity


def test_a_grid_is_written(own_shop, capsys, monkeypatch):
    # Its training is tested where it is.
    monkeypatch.setattr(granularity, "identical_at_1", lambda *_: 0.5)
    arguments = [
        f"--categories={own_shop}",
        f"--truth={own_shop}/data/table.csv",
        "--threshold=0.35,0.7",
        "--neighbors=4",
    ]
    assert sweep.main(arguments) == 0
    assert "sweep.json" in capsys.readouterr().out
    result = json.loads((own_shop / "sweep.json").read_text())
    assert [p["threshold"] for p in result["points"]] == [0.35, 0.7]


def test_what_is_wrong_is_said(own_shop, tmp_path, capsys):
    assert sweep.main([f"--categories={tmp_path / 'no'}"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no click log")
    (own_shop / "log" / "clicks_later.csv").unlink()
    assert sweep.main([f"--categories={own_shop}"]) == 2
    assert "--truth" in capsys.readouterr().err
