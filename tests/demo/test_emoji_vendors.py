import pandas as pd
import pytest

from mixer_jax.data.images import checking
from mixer_jax.data.tables import table
from mixer_jax.demo import emoji_vendors
from mixer_jax.demo.emoji_sets import catalog
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def package(tmp_path, emoji_sets, emojibase, pack_icons, monkeypatch):
    """The package of Iconify; both packages are "fetched" from here."""
    path = pack_icons(tmp_path / "iconify.tgz", emoji_sets)
    found = {
        emoji_vendors.icon_packages.ICONIFY: path,
        emoji_vendors.icon_packages.EMOJIBASE: emojibase,
    }
    monkeypatch.setattr(
        emoji_vendors.icon_packages, "fetch", lambda spec, folder: found[spec]
    )
    return path


def test_command_writes_one_table_per_family(package, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"--out={out}", f"--package={package}", "--size=32"]
    assert emoji_vendors.main(arguments) == 0
    output = capsys.readouterr().out
    for family in catalog.FAMILIES:
        frame = table.read_table(out / f"{family}.csv")
        assert f"{family}.csv: {len(frame)} samples" in output
        _, skipped = checking.check_images(frame, out, 0.0)
        assert skipped.count == 0
    assert f"from {package}" in (out / "CARD.md").read_text()
    assert (out / "ATTRIBUTION.md").read_text().count("| twemoji |") == 1
    assert (out / "sheet.png").is_file()
    before = {f: f.stat().st_mtime_ns for f in out.rglob("images/*/*.png")}
    assert len(before) == 11 * 12
    assert emoji_vendors.main(arguments) == 0
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_limit_bounds_the_number_of_emoji(package, tmp_path):
    out = tmp_path / "out"
    tables = emoji_vendors.build_tables(out, size=32, limit=5)
    shown = set().union(*(set(f["category_id"]) for f in tables.values()))
    assert len(shown) == 5


def test_table_of_a_run_is_built_with_its_folder(package, tmp_path):
    path = tmp_path / "data" / "noto.csv"
    frame = emoji_vendors.build_table(path)
    pd.testing.assert_frame_equal(frame, table.read_table(path))
    assert (tmp_path / "data" / "fluent.csv").is_file()


@pytest.mark.parametrize("name", ["table.csv", "noto.parquet"])
def test_table_must_be_named_after_a_family(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}.*fluent\.csv"):
        emoji_vendors.build_table(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_damaged_package_leaves_no_table(package, tmp_path, capsys):
    package.write_bytes(package.read_bytes()[:300])
    out = tmp_path / "out"
    arguments = [f"--out={out}", f"--package={package}"]
    assert emoji_vendors.main(arguments) == 2
    assert "damaged" in capsys.readouterr().err
    assert not list(out.glob("*.csv"))
