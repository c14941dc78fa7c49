"""The export command with a run of the color model."""

import json
import shutil

import numpy as np

import mixer_jax
from mixer_jax import export


def test_last_stage_is_exported(color_run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"--workdir={color_run}", f"--out={out}", "--to=proxies"]
    assert export.main(arguments) == 0
    output = capsys.readouterr().out
    assert (
        "proxies of 2 categories (vectors with 3 elements) of step 4" in output
    )
    assert str(color_run / "stage2") in output
    assert np.load(out / "proxies.npy").shape == (2, 3)
    assert json.loads((out / "categories.json").read_text()) == [
        "gray",
        "white",
    ]
    assert export.main([*arguments, "--unit"]) == 0
    metadata = json.loads((out / "export.json").read_text())
    assert metadata["rows"].endswith("scaled to length 1")


def test_invalid_arguments_are_rejected(color_run, tmp_path, capsys):
    stage = color_run / "stage2"
    run, out = f"--workdir={stage}", f"--out={tmp_path / 'out'}"
    (tmp_path / "file").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(stage / "config.json", empty)

    def check(arguments, message):
        for kind in ("proxies", "bundle"):
            assert export.main([*arguments, f"--to={kind}"]) == 2
            assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    check([run, f"--out={tmp_path / 'file'}"], "is a file")
    check([run, f"--out={color_run}"], "has contents other than")
    check([run, f"--out={tmp_path / 'file' / 'out'}"], "cannot be written")
    check([f"--workdir={tmp_path / 'no'}", out], "no trained stage")
    check([f"--workdir={empty}", out], "no checkpoint")
    assert export.main([run, out, "--unit"]) == 2
    assert "--unit needs --to=proxies" in capsys.readouterr().err
    for item in ("proxies", "model"):
        shutil.rmtree(stage / "checkpoints" / "4" / item / "d")
    check([run, out], "is damaged")


def test_default_export_is_a_bundle(color_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert export.main([f"--workdir={color_run}", f"--out={out}"]) == 0
    output = capsys.readouterr().out
    model = mixer_jax.load(out)
    assert model.fingerprint in output
    assert "model of step 4" in output
    # An export does not replace one of another kind.
    for kind, other in (("proxies", "export"), ("huggingface", "export")):
        arguments = [f"--workdir={color_run}", f"--out={out}", f"--to={kind}"]
        assert export.main(arguments) == 2
        assert f"contents other than the {other}" in capsys.readouterr().err
    assert mixer_jax.load(out).fingerprint == model.fingerprint
