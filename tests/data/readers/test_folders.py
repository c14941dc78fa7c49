import os

import pytest


def test_a_folder_is_a_category_and_the_one_around_it_a_group(folder):
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
    frame, said = folder.read("folders")
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
    assert "1 files that are no images" in said
    assert "1 images that are in no folder" in said
    # Its own table is no fault.
    again, said_again = folder.read("folders", "--overwrite")
    assert again.equals(frame)
    assert said_again == said


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
    said = folder.refuse("folders", "--splits", "--overwrite")
    assert "The category 'a' has samples of the splits 'test' and" in said


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX alone")
def test_names_that_are_no_utf8_are_left_out(folder):
    folder.images("a/1.jpg", "a/2.jpg")
    name = os.fsencode(folder.root / "a") + b"/\xff.jpg"
    with open(name, "wb") as file:
        file.write(b"image")
    frame, said = folder.read("folders")
    assert len(frame) == 2
    assert "1 whose file name is not UTF-8" in said


def test_no_image_is_an_error(folder):
    folder.write("notes.txt", "")
    folder.images("loose.jpg")
    assert "There is no image in a folder" in folder.refuse("folders")
