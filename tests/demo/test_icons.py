import hashlib

import pandas as pd
import pytest

from mixer_jax.data.images import checking, decoding
from mixer_jax.data.prepared.build import prepare
from mixer_jax.data.tables import table
from mixer_jax.demo import (
    icon_drawing,
    icon_names,
    icon_packages,
    icon_splits,
    icons,
)
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def build(tmp_path, icon_package):
    """Builds the table of the tiny package, without fetching anything."""

    def build(folder="out", size=64, **keys):
        keys = {"package": icon_package, "tags": False} | keys
        path = tmp_path / folder / "icons.csv"
        frame = icons.build_table(path, size, **keys)
        pd.testing.assert_frame_equal(frame, table.read_table(path))
        return frame, path.parent

    return build


@pytest.fixture
def vendors(icon_sets):
    """Returns the vendor of each sample of a table."""

    def vendor(row):
        prefix = row.sample_id.partition(":")[0]
        author = next(
            one["info"]["author"]["name"]
            for one in icon_sets
            if one["prefix"] == prefix
        )
        return icon_names.vendor(prefix, author, row.category_id)

    return lambda frame: [vendor(row) for row in frame.itertuples()]


def test_every_icon_with_a_shared_name_is_a_sample(build):
    frame, _ = build()
    of = frame.groupby("category_id")["sample_id"].apply(set)
    assert of["home"] == {
        "alpha:home",
        "alpha:home-outline",
        "beta:bold-home",
        "beta:thin-home",
        "gamma:home",
    }
    # Dan's star has Ann's pixels; the twins have no other icons.
    assert of["star"] == {"alpha:star", "beta:bold-star"}
    assert "twin" not in of
    # Ann's ghost is blank and her torn icon broken.
    assert {"ghost", "torn", "alone", "gone"}.isdisjoint(of.index)
    assert of["moon"] == {"ic:baseline-moon", "mdi:moon", "gamma:moon"}
    assert len(of) == 3 + 30 + 1


def test_category_of_one_vendor_has_only_documents(build):
    frame, root = build()
    # Sets that copy each other count as one vendor.
    sun = frame[frame["category_id"] == "sun"]
    assert set(sun["sample_id"]) == {"ic:baseline-sun", "mdi:sun"}
    assert set(sun["role"]) == {table.DOCUMENT}
    assert (
        "1\n  categories have only documents" in (root / "CARD.md").read_text()
    )


def test_share_of_categories_with_only_documents_is_limited(
    build, icon_sets, pack_icons, tmp_path
):
    body = icon_sets[0]["icons"]["home"]["body"]
    for k in range(20):
        for style, side in (("", 2), ("-outline", 3)):
            icon = {"body": body.replace("M1 1h20", f"M{k} 1h{side}")}
            icon_sets[0]["icons"][f"only{k}{style}"] = icon
    frame, _ = build(package=pack_icons(tmp_path / "p.tgz", icon_sets))
    roles = frame.groupby("category_id")["role"].agg(set)
    assert (roles == {table.DOCUMENT}).sum() == round(0.1 * 36)
    assert (roles == {table.DOCUMENT, table.QUERY}).sum() == 33


def test_queries_and_documents_have_different_vendors(build, vendors):
    frame, _ = build()
    frame = frame.assign(vendor=vendors(frame))
    for _, rows in frame[frame["category_id"] != "sun"].groupby("category_id"):
        asking = set(rows[rows["role"] == table.QUERY]["vendor"])
        answering = set(rows[rows["role"] == table.DOCUMENT]["vendor"])
        assert asking
        assert answering
        assert not asking & answering
    # No vendor has the same role everywhere.
    roles = frame.groupby("vendor")["role"].nunique()
    assert roles["alpha"] == roles["beta"] == 2


def test_split_follows_the_hash_of_the_category(build):
    frame, _ = build()
    for row in frame.itertuples():
        digest = hashlib.sha1(row.category_id.encode()).hexdigest()
        test = int(digest, 16) % 10 == 0
        assert row.split == ("test" if test else "train")
    assert set(frame["split"]) == {"train", "test"}


def test_texts_contain_names_aliases_and_labels(build, monkeypatch):
    tags = {
        "alpha": {"home-outline": ["Living  space", "home"], "star": ["best"]},
        "beta": {"home": ["hut"]},
    }
    monkeypatch.setattr(icon_packages, "read_tags", lambda folder: tags)
    monkeypatch.setattr(
        icon_names,
        "query_vendors",
        lambda key, names: {"gamma"} & set(names) or {max(names)},
    )
    frame, _ = build(tags=True)
    text = frame.set_index("sample_id")["text"]
    assert text["alpha:home"] == "home, house, places"
    assert text["alpha:home-outline"] == "home, living space, places"
    assert text["beta:bold-home"] == "home, hut, buildings"
    assert text["alpha:star"] == "star, best, shapes"
    assert text["mdi:moon"] == "moon"
    assert text["gamma:home"] == ""


def test_number_of_tags_in_a_text_is_limited():
    text = icons._text("a", [f"tag {k}" for k in range(20)], "label")
    assert text.split(", ") == ["a", *(f"tag {k}" for k in range(8)), "label"]


def test_group_is_the_most_frequent_label(build):
    frame, _ = build()
    groups = frame.groupby("category_id")["group"].agg(set)
    assert groups["home"] == {"places"}  # Only one set says "Buildings".
    assert groups["star"] == {"shapes"}
    assert groups["moon"] == {""}  # "UI 24px" does not describe the subject.


def test_group_without_labels_is_the_kind_of_set(
    build, icon_sets, pack_icons, tmp_path
):
    for one in icon_sets:
        one["info"]["category"] = "Logos"
        one.pop("categories", None)
    path = pack_icons(tmp_path / "logos.tgz", icon_sets)
    frame, _ = build(package=path)
    assert set(frame["group"]) == {"logos"}


def test_permissive_excludes_other_licenses(build):
    frame, root = build(permissive=True)
    assert not frame["sample_id"].str.startswith("gamma:").any()
    moon = frame[frame["category_id"] == "moon"]
    assert set(moon["role"]) == {table.DOCUMENT}  # Only one vendor is left.
    card = (root / "CARD.md").read_text()
    assert "| license requires more than attribution | 2 |" in card
    assert "GPL" not in (root / "ATTRIBUTION.md").read_text()
    everything, root = build("all")
    assert everything["sample_id"].str.startswith("gamma:").any()
    assert "GPL-3.0-only" in (root / "ATTRIBUTION.md").read_text()


def test_excluded_icons_are_counted(build):
    _, root = build()
    card = (root / "CARD.md").read_text()
    for line in (
        "hidden by their set | 1",
        # gone (beta), home-outline-copy, alone.
        "category without both queries and documents | 3",
        "blank on white | 1",
        "cannot be drawn | 1",
        "same pixels as another icon of the category | 2",
        "same pixels as a held-out icon | 0",
        # The remaining icons of ghost, torn and twin.
        "category too small without the icons above | 3",
    ):
        assert f"| {line} |" in card
    assert "alpha:torn: " in card


def test_splits_share_no_picture(build, icon_sets, pack_icons, tmp_path):
    alpha, beta = icon_sets[0]["icons"], icon_sets[1]["icons"]
    words = [word for word in beta if word in alpha and "-" not in word]
    test = next(word for word in words if icon_names.is_test(word))
    train = next(word for word in words if not icon_names.is_test(word))
    alpha[train] = dict(beta[test])
    icon_sets[2]["icons"][train] = {"body": alpha["alone"]["body"]}
    frame, root = build(package=pack_icons(tmp_path / "p.tgz", icon_sets))
    ids = set(frame["sample_id"])
    assert {f"alpha:{test}", f"beta:{test}", f"beta:{train}"} <= ids
    assert f"alpha:{train}" not in ids
    line = "| same pixels as a held-out icon | 1 |"
    assert line in (root / "CARD.md").read_text()


def test_pictures_are_intact_and_have_the_requested_size(build):
    frame, root = build(size=80)
    kept, skipped = checking.check_images(frame, root, 0.0)
    assert len(kept) == len(frame)
    assert skipped.count == 0
    for name in frame["image"]:
        with decoding.Image.open(root / name) as image:
            assert image.size == (80, 80)
    assert not list(root.rglob("*.[0-9]*"))


def test_interrupted_build_is_resumed(build, monkeypatch, tmp_path):
    want, _ = build("whole")
    draw_one, calls = icon_drawing._draw, []

    def interrupted(*job):
        calls.append(job)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return draw_one(*job)

    monkeypatch.setattr(icon_drawing, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    out = tmp_path / "out"
    assert not (out / "icons.csv").exists()
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.png")}
    assert 30 < len(before) < 40
    frame, _ = build()
    pd.testing.assert_frame_equal(frame, want)
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_changed_drawing_is_drawn_again(build, icon_sets, pack_icons, tmp_path):
    first, root = build()
    body = icon_sets[1]["icons"]["bold-home"]
    body["body"] = body["body"].replace("M1 1", "M2 1")
    other = pack_icons(tmp_path / "other.tgz", icon_sets)
    second, _ = build(package=other)
    changed = first["image"] != second["image"]
    assert first[changed]["sample_id"].tolist() == ["beta:bold-home"]
    for frame in (first, second):
        path = root / frame[changed]["image"].item()
        assert path.is_file()


def test_limit_bounds_the_number_of_categories(build):
    frame, _ = build(limit=5)
    everything, _ = build("all")
    chosen = set(frame["category_id"])
    assert 3 <= len(chosen) <= 5  # Drawing drops some categories.
    rows = everything[everything["category_id"].isin(chosen)]
    pd.testing.assert_frame_equal(frame, rows.reset_index(drop=True))


def test_limit_keeps_the_share_of_categories_without_queries(
    build, icon_sets, pack_icons, tmp_path, monkeypatch
):
    monkeypatch.setattr(icon_splits, "_UNASKED", 0.3)
    body = icon_sets[0]["icons"]["home"]["body"]
    for k in range(60):
        for style, side in (("", 2), ("-outline", 3)):
            icon = {
                "body": body.replace("M1 1h20", f"M{k % 20} {k // 20}h{side}")
            }
            icon_sets[0]["icons"][f"only{k}{style}"] = icon
    frame, _ = build(
        package=pack_icons(tmp_path / "p.tgz", icon_sets), limit=15
    )
    roles = frame.groupby("category_id")["role"].agg(set)
    # 10 of all 43 categories, so three or four of 15.
    assert 0 < (roles == {table.DOCUMENT}).sum() < 8


def test_prepared_content_matches_the_files(build):
    frame, root = build(limit=8)
    train = table.select(frame, "train")
    source = prepare(train, root).source()
    for row in range(len(train)):
        path = root / train["image"].iloc[row]
        assert source[row] == (path.read_bytes(), train["text"].iloc[row])


@pytest.mark.parametrize("size", [63, 225, 0, -1])
def test_size_out_of_range_raises_an_error(build, size):
    with pytest.raises(UserError, match=rf"{size} pixels.*64 to 224"):
        build(size=size)


def test_limit_below_one_raises_an_error(build):
    with pytest.raises(UserError, match="limit is 0"):
        build(limit=0)


def test_package_without_shared_names_raises_an_error(
    build, icon_sets, pack_icons, tmp_path
):
    path = pack_icons(tmp_path / "one.tgz", icon_sets[:1])
    with pytest.raises(
        UserError, match="has no icon name that two vendors use"
    ):
        build(package=path)
    assert not (tmp_path / "out/icons.csv").exists()


def test_command_builds_the_table(tmp_path, icon_package, capsys):
    command = [
        f"--out={tmp_path / 'out'}",
        f"--package={icon_package}",
        "--size=64",
        "--no-tags",
    ]
    assert icons.main(command) == 0
    assert "icons.csv: 72 samples of 34 categories" in capsys.readouterr().out
    icon_package.write_bytes(icon_package.read_bytes()[:300])
    assert icons.main(command) == 2
    assert "damaged" in capsys.readouterr().err
    assert len(table.read_table(tmp_path / "out/icons.csv")) == 72


def test_queries_of_unseen_vendors_are_a_table_of_their_own(
    tmp_path, icon_package, capsys, monkeypatch
):
    monkeypatch.setattr(
        icon_splits,
        "maker_split",
        lambda maker: {"Ann": "test", "Bob": "val"}.get(maker, "train"),
    )
    out = tmp_path / "out"
    assert (
        icons.main(
            [f"--out={out}", f"--package={icon_package}", "--size=64"]
            + ["--no-tags", "--unseen-vendors"]
        )
        == 0
    )
    frame = table.read_table(out / "icons_unseen.csv")
    assert f"icons_unseen.csv: {len(frame)} samples" in capsys.readouterr().out
    assert not (out / "icons.csv").exists()
    # Only Ann and Bob draw most icons, and he is a vendor of val.
    test = frame[frame["split"] == "test"]
    prefix = test["sample_id"].str.partition(":")[0]
    roles = prefix.groupby(test["role"]).agg(set).to_dict()
    assert roles == {table.QUERY: {"alpha"}, table.DOCUMENT: {"beta"}}
    train = frame[frame["split"] == "train"]
    assert not train["sample_id"].str.contains("alpha|beta").any()
    card = (out / "CARD.md").read_text()
    assert "  - test: Ann\n" in card
    assert "| from a vendor held out for another split |" in card


def test_invalid_package_is_rejected_before_fetching_tags(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(icon_packages, "fetch", None)
    (tmp_path / "file").write_text("no package")
    for name in ("nowhere", "file", ""):
        out = f"--out={tmp_path / 'out'}"
        assert icons.main([out, f"--package={tmp_path / name}"]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
