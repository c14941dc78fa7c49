import threading
from pathlib import Path

import pandas as pd
import pytest

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table
from mixer_jax.demo import sources
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config.defaults import defaults


def data(**keys):
    config = defaults().data
    config.update(keys)
    return config


def test_existing_table_is_unchanged(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("mine")
    config = data(table=str(path), source="emoji-medium")
    assert sources.ensure_table(config) == path
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["emoji-medium", "emoji-large"])
def test_missing_table_is_built_by_its_source(tmp_path, monkeypatch, name):
    frames = sources.emoji.frames
    monkeypatch.setattr(sources.emoji, "frames", lambda limit: frames(3))
    path = tmp_path / "folder" / "t.csv"
    config = data(table=str(path), source=name)
    assert sources.ensure_table(config) == path
    want = frames(3)[name.removeprefix("emoji-")]
    got = table.read_table(path)
    assert got["sample_id"].tolist() == want["sample_id"].tolist()


def test_icons_are_built_from_their_package(
    tmp_path, monkeypatch, icon_package
):
    packages = sources.icons.icon_packages
    monkeypatch.setattr(packages, "fetch", lambda *keys: icon_package)
    monkeypatch.setattr(packages, "read_tags", lambda folder: {})
    path = tmp_path / "folder" / "t.csv"
    config = data(table=str(path), source="icons")
    assert sources.ensure_table(config) == path
    frame = table.read_table(path)
    assert frame["category_id"].nunique() == 34
    with decoding.Image.open(path.parent / frame["image"][0]) as image:
        assert image.size == (96, 96)


@pytest.mark.parametrize(
    ("name", "unseen"), [("icons", False), ("icons-unseen", True)]
)
def test_icon_sources_differ_in_their_vendors(monkeypatch, name, unseen):
    assigned = []

    def assign(icons, unseen, left_out):
        assigned.append(unseen)
        raise UserError("enough")

    monkeypatch.setattr(sources.icons.icon_splits, "assign", assign)
    monkeypatch.setattr(sources.icons, "_catalog", lambda *_: ([], {}, {}))
    monkeypatch.setattr(
        sources.icons.icon_packages, "read_sets", lambda package: iter("s")
    )
    monkeypatch.setattr(sources.icons.icon_packages, "fetch", lambda *_: "p")
    monkeypatch.setattr(sources.icons.icon_packages, "read_tags", lambda _: {})
    with pytest.raises(UserError, match="enough"):
        sources.SOURCES[name](Path("table.csv"))
    assert assigned == [unseen]


def test_emoji_vendors_need_the_name_of_a_family(tmp_path):
    config = data(table=str(tmp_path / "t.csv"), source="emoji-vendors")
    with pytest.raises(UserError, match=r"t\.csv.*fluent\.csv"):
        sources.ensure_table(config)


def test_fold_of_the_furniture_is_built(tmp_path, monkeypatch):
    row = ("bed", "document", "a.png", "Bed", "bed", "Room", "", 3, False)
    columns = [name for name in table.COLUMNS if name != "split"]
    samples = pd.DataFrame(
        [
            row,
            ("bed/0", "query", "b.png", "", "bed", "Room", "plain", 3, False),
        ],
        columns=[*columns, "part", "fold", "validation"],
    )
    monkeypatch.setattr(
        sources.furniture, "build_samples", lambda root, settings: samples
    )
    for fold, splits in (
        (3, ["test/plain"]),
        (4, ["gallery/plain", "train/plain"]),
    ):
        path = tmp_path / f"{fold}.csv"
        config = data(table=str(path), source=f"furniture-fold{fold}")
        assert sources.ensure_table(config) == path
        found = set(table.read_table(path)["split"]) - {"val-gallery/plain"}
        assert sorted(found) == splits


def test_errors_name_valid_sources(tmp_path):
    with pytest.raises(UserError, match=r"data\.table is empty"):
        sources.ensure_table(data())
    path = str(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"none\.csv.*emoji-medium"):
        sources.ensure_table(data(table=path))
    with pytest.raises(UserError, match=r"'emojis'.*emoji-large"):
        sources.ensure_table(data(table=path, source="emojis"))


def test_newline_in_a_path_is_escaped(tmp_path):
    missing = tmp_path / "none\nWrote everything.csv"
    with pytest.raises(UserError, match=r"none\\nWrote everything\.csv"):
        sources.ensure_table(data(table=str(missing)))


def test_concurrent_runs_build_a_table_once(tmp_path, monkeypatch):
    begun, go_on, built = threading.Event(), threading.Event(), []

    def build(path):
        built.append(path)
        begun.set()
        go_on.wait()
        path.write_text("whole")

    monkeypatch.setitem(sources.SOURCES, "icons", build)
    path = tmp_path / "new" / "icons.csv"
    config = data(table=str(path), source="icons")
    runs = [
        threading.Thread(target=sources.ensure_table, args=[config])
        for _ in range(2)
    ]
    runs[0].start()
    begun.wait()
    runs[1].start()
    runs[1].join(0.5)
    go_on.set()
    for run in runs:
        run.join()
    assert built == [path]
