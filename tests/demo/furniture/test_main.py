from mixer_jax.data.tables import table
from mixer_jax.demo.furniture import __main__ as furniture


def test_command_builds_the_tables(
    tmp_path, furniture_package, fake_renderer, plain_backgrounds, capsys
):
    out = tmp_path / "out"
    command = [f"--out={out}", f"--package={furniture_package}"]
    command += ["--size=64", "--views=2"]
    assert furniture.main(command) == 0
    assert "fold4.csv: 19 products\n" in capsys.readouterr().out
    assert len(table.read_table(out / "fold0.csv")) > 19 * 3
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert {"CARD.md", "ATTRIBUTION.md", "contact_sheet.png"} < names
    assert furniture.main([*command, "--limit=0"]) == 2
    assert "limit is 0" in capsys.readouterr().err


def test_invalid_package_is_rejected(tmp_path, fake_renderer, capsys):
    (tmp_path / "file").write_text("no package")
    out = f"--out={tmp_path / 'out'}"
    for name in ("nowhere", "file"):
        assert furniture.main([out, f"--package={tmp_path / name}"]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    assert not (tmp_path / "out" / "fold0.csv").exists()
