import pandas as pd
import pytest

from mixer_jax.data.images import checking
from mixer_jax.data.tables import table
from mixer_jax.demo.furniture import build, cutouts, folds
from mixer_jax.demo.furniture.models import loading, rendering
from mixer_jax.demo.furniture.settings import Settings
from mixer_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("fake_renderer", "plain_backgrounds")


@pytest.fixture
def samples(tmp_path, furniture_package):
    """Builds the samples of the tiny package."""

    def build_samples(folder="out", **keys):
        keys = {"size": 64, "package": furniture_package} | keys
        root = tmp_path / folder
        return build.build_samples(root, Settings(**keys)), root

    return build_samples


def test_every_product_has_a_document_and_queries(samples):
    frame, root = samples()
    assert frame["category_id"].nunique() == 19
    assert frame["sample_id"].is_unique
    row = frame.set_index("sample_id").loc["first/alpine1"]
    assert (row["role"], row["text"], row["group"], row["part"]) == (
        *("document", "Alpine", "Room", ""),
    )
    row = frame.set_index("sample_id").loc["second/alpine2/1"]
    assert (row["role"], row["text"], row["part"]) == ("query", "", "hidden")
    counts = frame["part"].value_counts()
    assert counts[""] == 19
    assert counts["plain"] == 2 * counts["hidden"] == 38
    kept, skipped = checking.check_images(
        frame.assign(split="train"), root, 0.0
    )
    assert len(kept) == len(frame)
    assert skipped.count == 0


def test_variants_share_fold_and_validation(samples):
    frame, _ = samples(views=1)
    for row in frame[frame["role"] == "document"].itertuples():
        stem = row.text.lower().removeprefix("small ")
        assert (row.fold, row.validation) == folds.cell(stem)
    cells = frame.groupby("category_id")[["fold", "validation"]]
    assert (cells.nunique() == 1).all(axis=None)


def test_mosaics_show_products_of_the_same_cell(samples, tmp_path, monkeypatch):
    """Otherwise, training pictures would show tested products."""
    shown = []
    compose = build.pictures.compose

    def note(queries):
        shown.extend(queries)
        return compose(queries)

    monkeypatch.setattr(build.pictures, "compose", note)
    frame, root = samples()
    cutout = {query.cutout: query.key for query in shown}
    titles = frame[frame["text"] != ""].set_index("category_id")["text"]
    mosaics = [query for query in shown if query.other]
    assert len(mosaics) > 10
    for query in mosaics:
        stems = [
            folds.stem(titles[key]) for key in (query.key, cutout[query.other])
        ]
        assert stems[0] != stems[1]
        assert folds.cell(stems[0]) == folds.cell(stems[1])
    # Products alone in their cell have no mosaics.
    have = {query.key for query in mosaics}
    alone = [key for key in titles.index if key not in have]
    assert len(frame) == 19 * 6 - 2 * len(alone)
    text = (root / "CARD.md").read_text()
    assert f"{2 * len(alone)} x mosaic without another product" in text


def test_interrupted_build_is_resumed(samples, monkeypatch, tmp_path):
    want, _ = samples("whole", views=2)
    calls, load = [], rendering.Scene

    def interrupted(*keys):
        calls.append(keys)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return load(*keys)

    monkeypatch.setattr(rendering, "Scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        samples(views=2)
    out = tmp_path / "out"
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.png")}
    assert len(before) == 19 + 9 * 2
    frame, _ = samples(views=2)
    assert len(calls) == 10 + 10
    pd.testing.assert_frame_equal(frame, want)
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_changed_size_makes_new_pictures(samples):
    first, root = samples(views=1)
    second, _ = samples(size=80, views=1)
    assert not set(first["image"]) & set(second["image"])
    kept, _ = checking.check_images(first.assign(split="train"), root, 0.0)
    assert len(kept) == len(first)


def test_number_of_views_and_products_can_be_limited(samples):
    everything, _ = samples(views=2)
    frame, _ = samples("few", views=2, limit=4)
    assert frame["category_id"].nunique() == 4
    assert len(frame) == 4 * 3
    rows = everything[everything["sample_id"].isin(frame["sample_id"])]
    pd.testing.assert_frame_equal(frame, rows.reset_index(drop=True))
    one, _ = samples("one", views=1, limit=1)
    assert len(one) == 2


def test_products_without_pictures_are_left_out(samples, monkeypatch):
    load = loading.load

    def refuse(product):
        if product.key == "first/bottle1":
            raise loading.UnusableModelError("no parts")
        return load(product)

    monkeypatch.setattr(loading, "load", refuse)
    trim = cutouts._trimmed
    calls = []

    def blank(pixels):
        calls.append(pixels)
        return None if len(calls) <= 2 else trim(pixels)

    monkeypatch.setattr(cutouts, "_trimmed", blank)
    frame, root = samples(views=2)
    keys = set(frame["category_id"])
    assert len(keys) == 17
    assert not {"first/alpine1", "first/bottle1"} & keys
    text = (root / "CARD.md").read_text()
    assert "2 x blank view:\n\n- first/alpine1, view 0\n" in text
    assert "- first/bottle1: no parts\n" in text
    assert "bottle1" not in (root / "ATTRIBUTION.md").read_text()


def test_package_without_usable_models_raises_an_error(samples, monkeypatch):
    def refuse(product):
        raise loading.UnusableModelError("no parts")

    monkeypatch.setattr(loading, "load", refuse)
    with pytest.raises(UserError, match=r"No product .* could be rendered"):
        samples()


def test_tables_of_all_folds_share_their_pictures(tmp_path, furniture_package):
    settings = Settings(64, 5, furniture_package)
    frames = build.build_tables(tmp_path / "out", settings)
    assert list(frames) == [f"fold{k}.csv" for k in range(5)]
    tested = []
    for name, frame in frames.items():
        read = table.read_table(tmp_path / "out" / name)
        pd.testing.assert_frame_equal(frame, read)
        if frame["split"].str.startswith("test/").any():
            tested += list(table.select(frame, "test")["category_id"].unique())
    assert sorted(tested) == sorted(set(tested))
    assert len(tested) == 19
    assert len({frozenset(frame["image"]) for frame in frames.values()}) == 1


def test_table_of_one_fold_is_built_for_a_run(
    tmp_path, furniture_package, monkeypatch
):
    fetched = build.package.read
    monkeypatch.setattr(
        build.package,
        "read",
        lambda package, folder: fetched(furniture_package, folder),
    )
    path = tmp_path / "new" / "mine.csv"
    frame = build.build_table(path, fold=2)
    pd.testing.assert_frame_equal(frame, table.read_table(path))
    with build.pictures.Image.open(path.parent / frame["image"][0]) as image:
        assert image.size == (128, 128)


def test_missing_renderer_is_reported_before_the_work(
    samples, monkeypatch, tmp_path
):
    def missing():
        raise UserError("vtk is not installed")

    monkeypatch.setattr(rendering, "check", missing)
    with pytest.raises(UserError, match="vtk is not installed"):
        samples()
    assert not (tmp_path / "out").exists()
