import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data import check, prepare
from mixer_jax.data.prepared import build, opening
from mixer_jax.data.tables import roots, rules, table
from mixer_jax.runtime.errors import UserError
from tests import inline_images


@pytest.fixture
def shop(tmp_path):
    """Folders with images, some of them reached through links."""
    for name in ("shop/a.png", "photos/b.png", "secret/c.png"):
        path = tmp_path / name
        path.parent.mkdir()
        pixels = np.random.default_rng(len(name)).integers(0, 255, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "shop/link.png").symlink_to(tmp_path / "photos/b.png")
    (tmp_path / "shop/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "link to photos").symlink_to(tmp_path / "photos")
    return tmp_path


def write(shop, *images):
    rows = [
        (f"s{i}", "document", str(image), "", "c", "", "train")
        for i, image in enumerate(images)
    ]
    path = shop / "shop" / "table.csv"
    pd.DataFrame(rows, columns=rules.COLUMNS).to_csv(path, index=False)
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_absolute_paths_are_read_like_others(shop):
    path = write(shop, "a.png", shop / "photos/b.png", "link.png")
    opened = opening.open_table(path, "train")
    _, source = opened.prepared.training()
    wanted = [(shop / "shop/a.png").read_bytes()]
    wanted += 2 * [(shop / "photos/b.png").read_bytes()]
    assert [source[row][0] for row in range(3)] == wanted
    assert check.main([f"--table={path}", "--images"]) == 0


def test_names_that_no_file_has_are_outside(shop):
    (rule,) = roots.rules(shop / "shop", str(shop / "photos"))
    frame = pd.DataFrame({"image": ["a\0b/c.jpg", "a.png"]})
    assert rule.broken(frame).tolist() == [True, False]


@pytest.mark.parametrize("given", [",", ",,"])
def test_roots_without_a_folder_are_refused(shop, given):
    with pytest.raises(UserError, match="name no folder"):
        roots.rules(shop / "shop", given)


@pytest.mark.parametrize("given", ["photos", "link to photos", "x,photos"])
def test_images_may_be_in_the_roots_and_beside_the_table(shop, given):
    given = ",".join(str(shop / name) for name in given.split(","))
    images = ["a.png", "", shop / "photos/b.png", "link.png"]
    images += [shop / "link to photos/b.png", shop / "shop/a.png"]
    path = write(shop, *images)
    (rule,) = roots.rules(path.parent, given)
    frame = pd.read_csv(path, keep_default_na=False)
    assert not rule.broken(frame).any()


def test_other_images_are_refused_with_row_and_remedy(shop, capsys):
    given = f"--image-roots={shop / 'photos'}"
    for image, value in (
        (shop / "secret/c.png", "secret/c.png"),
        ("folder/c.png", "'folder/c.png'"),
        (f"{shop}/photos-2/b.png", "photos-2"),
        ("missing/../../secret/c.png", "without '..'"),
    ):
        path = write(shop, "a.png", image)
        for command in (check, prepare):
            assert command.main([f"--table={path}", given]) == 2
            error = " ".join(capsys.readouterr().err.split())
            assert f"{path}, line 3, column image: " in error
            assert value in error
            if ".." not in value:
                assert "--image-roots (in a config, data.image_roots)" in error
                assert f"'{shop / 'photos'}'" in error


def test_the_roots_are_checked_again_when_they_change(shop):
    path = write(shop, "a.png", "link.png")
    both = f"{shop / 'photos'},{shop / 'secret'}"
    for _ in range(2):
        for image_roots in ("", both):
            options = build.Options(image_roots=image_roots)
            assert opening.open_table(path, "train", options=options)
        options = build.Options(image_roots=str(shop / "secret"))
        with pytest.raises(UserError, match=r"link\.png"):
            opening.open_table(path, "train", options=options)


def test_links_that_change_are_noticed(shop):
    path = write(shop, "a.png", "link.png")
    options = build.Options(image_roots=str(shop / "photos"))
    assert opening.open_table(path, "train", options=options)
    (shop / "shop/link.png").unlink()
    (shop / "shop/link.png").symlink_to(shop / "secret/c.png")
    with pytest.raises(UserError, match=r"link\.png"):
        opening.open_table(path, "train", options=options)


def test_images_in_the_table_are_beside_it(shop):
    path = write(shop, "a.png", "link.png")
    frame = table.read_table(path)
    inside = inline_images.write(frame, path.parent, shop / "new" / "t.parquet")
    for image_roots in ("", str(shop / "photos")):
        assert len(table.read_table(inside, image_roots)) == 2


def test_braces_in_names_are_kept(shop):
    (rule,) = roots.rules(shop, str(shop / "{value} {0}"))
    fault = rules.Fault(rule, 0, "a.png", 1)
    assert f"'{shop}/{{value}} {{0}}'" in fault.describe("row 1")
