import pytest

HEADER = "image_id class_id super_class_id path"
TRAIN = (
    "1 1 1 bicycle_final/111_0.JPG",
    "2 1 1 bicycle_final/111_1.JPG",
    "3 2 12 toaster_final/222_0.JPG",
    "4 2 12 toaster_final/222_1.JPG",
)
TEST = (
    "5 3 5 coffee_maker_final/333_0.JPG",
    "6 3 5 coffee_maker_final/333_1.JPG",
)


def write(folder, train=TRAIN, test=TEST, end="\r\n", header=HEADER):
    for name, lines in (("train", train), ("test", test)):
        content = end.join((header, *lines)) + end
        folder.write(f"Ebay_{name}.txt", "\ufeff" + content)
        folder.images(*(line.split()[-1] for line in lines))


def test_reads_images_with_the_official_split(folder):
    write(folder)
    frame, output = folder.read("stanford_online_products")
    assert frame["image"].tolist() == [
        line.split()[-1] for line in (*TRAIN, *TEST)
    ]
    assert frame["split"].tolist() == ["train"] * 4 + ["test"] * 2
    assert frame["category_id"].tolist() == ["1", "1", "2", "2", "3", "3"]
    groups = ["bicycle"] * 2 + ["toaster"] * 2 + ["coffee_maker"] * 2
    assert frame["group"].tolist() == groups
    assert frame.groupby("category_id")["role"].nunique().tolist() == [2, 2, 2]
    assert set(frame["text"]) == {""}
    assert "6 samples of 3 categories" in output


def test_missing_images_and_repeated_lines_are_left_out(folder):
    write(folder, train=(*TRAIN, TRAIN[0]), end="\n")
    (folder.root / "toaster_final/222_0.JPG").unlink()
    frame, output = folder.read("stanford_online_products")
    # Class 2 has only one image left.
    assert frame["category_id"].tolist() == ["1", "1", "3", "3"]
    assert "with a repeated ID (1)" in output
    assert "with a missing or empty image file (1)" in output
    assert "from train without another sample in their category (1)" in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(header="image_id path"),
            "Ebay_train.txt, line 1: the first line",
        ),
        (dict(train=("1 1 a/1.JPG",)), "line 2: the line has 3 words"),
        (dict(train=("1 x 1 a/1.JPG",)), "line 2, column class_id: 'x'"),
        (dict(test=("7 1 1 a/7.JPG",)), "The category '1' has samples"),
    ],
)
def test_invalid_lines_raise_an_error(folder, change, message):
    write(folder, **change)
    assert message in folder.refuse("stanford_online_products")


def test_missing_files_raise_an_error(folder):
    write(folder)
    (folder.root / "Ebay_test.txt").unlink()
    message = folder.refuse("stanford_online_products")
    assert "There is no Ebay_test.txt" in message
    assert "bicycle_final/" in message
