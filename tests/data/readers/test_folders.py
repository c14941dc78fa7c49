import argparse
import os
import pathlib
import shutil
import tempfile

import hypothesis
import hypothesis.strategies as st
import pytest

from mixer_jax.data.readers import folders, rows


def test_folder_is_a_category_and_its_parent_the_group(folder):
    folder.images(
        "shoes/Größe, 7/b.JPG",
        "shoes/Größe, 7/a.png",
        "hats/x/1.webp",
        "hats/x/2.jpeg",
        "hats/3.gif",
        "hats/4.gif",
        "loose.jpg",
        ".hidden/y/5.jpg",
        "hats/x/.6.jpg",
    )
    folder.write("hats/x/notes.txt", "no image")
    frame, output = folder.read("folders")
    assert frame["image"].tolist() == [
        "hats/3.gif",
        "hats/4.gif",
        "hats/x/1.webp",
        "hats/x/2.jpeg",
        "shoes/Größe, 7/a.png",
        "shoes/Größe, 7/b.JPG",
    ]
    assert frame["category_id"].tolist()[::2] == [
        "hats",
        "hats/x",
        "shoes/Größe, 7",
    ]
    assert frame["group"].tolist()[::2] == ["", "hats", "shoes"]
    assert frame.groupby("category_id")["role"].nunique().tolist() == [2, 2, 2]
    assert "files that are not images (1)" in output
    assert "images outside category folders (1)" in output
    # The table itself is not counted as left out.
    again, output_again = folder.read("folders", "--overwrite")
    assert again.equals(frame)
    assert output_again == output


@pytest.mark.parametrize("options", [(), ("--splits",)])
def test_files_above_the_categories_are_counted(folder, options):
    folder.images("train/a/1.jpg", "train/a/2.jpg")
    folder.write("readme.txt", "")
    folder.write("1.heic", "image")
    folder.write("train/list.csv", "")
    for again in ((), ("--overwrite",)):
        _, output = folder.read("folders", *options, *again)
        assert output.endswith("left out: files that are not images (3)")


def test_topmost_folders_may_be_splits(folder):
    names = [
        f"{s}/{c}/{i}.jpg"
        for s, c in (("train", "a"), ("test", "b"))
        for i in (1, 2)
    ]
    folder.images(*names)
    frame, _ = folder.read("folders", "--splits")
    assert set(zip(frame["split"], frame["category_id"], strict=True)) == {
        ("train", "a"),
        ("test", "b"),
    }
    folder.images("test/a/3.jpg")
    message = folder.refuse("folders", "--splits", "--overwrite")
    assert "The category 'a' has samples in the splits 'test' and" in message


def test_folders_that_look_like_splits_cause_a_note(folder):
    names = [f"{s}/a/{i}.jpg" for s in ("train", "Test") for i in (1, 2)]
    folder.images(*names)
    code, _, err = folder.run("folders")
    assert code == 0
    assert "If they are splits, add --splits." in err
    folder.images("a/1.jpg", "a/2.jpg")
    shutil.rmtree(folder.root / "Test")
    assert "--splits" not in folder.run("folders", "--overwrite")[2]


@pytest.mark.skipif(os.name == "nt", reason="only POSIX file names are bytes")
def test_names_that_are_not_utf8_are_left_out(folder):
    folder.images("a/1.jpg", "a/2.jpg")
    name = os.fsencode(folder.root / "a") + b"/\xff.jpg"
    with open(name, "wb") as file:
        file.write(b"image")
    frame, output = folder.read("folders")
    assert len(frame) == 2
    assert "with a file name that is not UTF-8 (1)" in output


def test_missing_images_raise_an_error(folder):
    folder.write("notes.txt", "")
    folder.images("loose.jpg")
    assert "No folder in" in folder.refuse("folders")


def test_linked_categories_are_read(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    folder.images("a/1.jpg", "a/2.jpg")
    for name in "bcd":
        (disk / name).mkdir()
        for number in (1, 2):
            (disk / name / f"{number}.jpg").write_bytes(b"image")
        (folder.root / name).symlink_to(disk / name)
    (folder.root / "a" / "3.jpg").symlink_to(disk / "b" / "1.jpg")
    frame, output = folder.read("folders")
    assert sorted(frame["category_id"].unique()) == ["a", "b", "c", "d"]
    assert len(frame) == 9
    assert output.endswith("left out: none")


def test_error_without_images_counts_the_left_out(folder):
    folder.write("notes.txt", "")
    (folder.root / "a").mkdir()
    (folder.root / "a" / "1.jpg").symlink_to("nowhere")
    assert "broken links (1)" in folder.refuse("folders")


NAMES = st.text(
    st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="/"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(
        st.tuples(
            st.lists(NAMES, max_size=3),
            NAMES,
            st.sampled_from(["file", "link", "dangling", "pipe"]),
        ),
        max_size=12,
    )
)
def test_every_image_is_a_row_or_counted_as_left_out(entries):
    with tempfile.TemporaryDirectory() as home:
        root = pathlib.Path(home, "root")
        (root / "category").mkdir(parents=True)
        (root / "category" / "0.jpg").write_bytes(b"image")
        elsewhere = pathlib.Path(home, "elsewhere.jpg")
        elsewhere.write_bytes(b"image")
        made = {("category", "0.jpg")}
        for parts, name, kind in entries:
            path = root.joinpath(*parts, f"{name}.jpg")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "file":
                    path.open("xb").close()
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    target = elsewhere if kind == "link" else "nowhere"
                    path.symlink_to(target)
            except FileExistsError:
                continue
            made.add((*parts, f"{name}.jpg"))
        left_out = rows.LeftOut()
        options = argparse.Namespace(splits=False, out=root / "table.csv")
        found = list(folders.read(root, options, left_out))
        hidden = {
            parts[:depth]
            for parts in made
            for depth in range(1, len(parts) + 1)
            if parts[depth - 1].startswith(".")
        }
        visible = [w for w in made if not any(p.startswith(".") for p in w)]
        tops = {h for h in hidden if not any(p.startswith(".") for p in h[:-1])}
        assert len(found) + left_out.total() == len(visible) + len(tops)
        for row in found:
            assert (root / row.image).is_file()
            assert row.image == "/".join(
                (row.category_id, row.image.split("/")[-1])
            )


def test_every_jpeg_suffix_is_read(folder):
    names = ["a/1.jfif", "a/2.jpe", "a/3.JPG", "a/4.jpeg"]
    folder.images(*names)
    frame, output = folder.read("folders")
    assert frame["image"].tolist() == names
    assert output.endswith("left out: none")
