import json


def write(folder, name, items, flat=False):
    images = [
        {"image_id": f"{i}.jpg", "class_id": category} for i, category in items
    ]
    folder.write(f"{name}.json", json.dumps({"images": images}))
    folder.images(
        *(
            f"{name}/{i}.jpg" if flat else f"{name}/{category}/{i}.jpg"
            for i, category in items
        )
    )


def test_both_lists_are_read(folder):
    write(folder, "train", [(1, "00001"), (2, "00001"), (3, "00002")])
    write(folder, "val", [(4, "00001"), (5, "00002")])
    frame, output = folder.read("aliproducts", f"--out={folder.root}/t.parquet")
    assert frame["image"].tolist() == [
        "train/00001/1.jpg",
        "train/00001/2.jpg",
        "train/00002/3.jpg",
        "val/00001/4.jpg",
        "val/00002/5.jpg",
    ]
    assert frame.groupby("category_id")["role"].nunique().tolist() == [2, 2]
    assert frame.groupby("category_id")["split"].nunique().tolist() == [1, 1]
    assert "5 samples of 2 categories" in output


def test_reads_flat_folders_and_integer_classes(folder):
    write(folder, "train", [(1, 0), (2, 0), (3, 7), (4, 7)], flat=True)
    frame, _ = folder.read("aliproducts")
    assert frame["image"].tolist()[:2] == ["train/1.jpg", "train/2.jpg"]
    assert frame["category_id"].tolist() == ["0", "0", "7", "7"]


def test_invalid_items_raise_an_error(folder):
    write(folder, "train", [(1, "a"), (2, "a"), (3, "")])
    _, output = folder.read("aliproducts")
    assert "without a class (1)" in output
    folder.write("train.json", '{"images": [{"class_id": "a"}]}')
    message = folder.refuse("aliproducts", "--overwrite")
    assert (
        "train.json, images 1, column image_id: expected a non-empty" in message
    )
    folder.write("train.json", '{"annotations": []}')
    assert "no list 'images'" in folder.refuse("aliproducts", "--overwrite")
    (folder.root / "train.json").unlink()
    assert "There is no train.json" in folder.refuse(
        "aliproducts", "--overwrite"
    )


def test_missing_first_image_does_not_decide_the_layout(folder):
    write(folder, "train", [(n, n // 2) for n in range(6)], flat=True)
    (folder.root / "train" / "0.jpg").unlink()
    frame, output = folder.read("aliproducts")
    assert frame["image"].tolist() == [f"train/{n}.jpg" for n in range(2, 6)]
    assert "with a missing or empty image file (1)" in output
