from mixer_jax.data.tables.holdout import is_test

CLASSES = range(24)


def write(folder, train, test=None, name="test_kaggletest.csv"):
    folder.write("train.csv", "\r\n".join(("name,class,group", *train)))
    if test is not None:
        folder.write(name, "\n".join(("name,class,Usage", *test)) + "\n")


def many(folder):
    """Writes three images per class, one of them in the test list."""
    train = [f"{2 * c + i}.jpg,{c},{c // 4}" for c in CLASSES for i in (0, 1)]
    test = [f"{c}.jpg,{c},{'Public' if c % 2 else 'Private'}" for c in CLASSES]
    write(folder, train, test)
    folder.images(*(f"train/{2 * c + i}.jpg" for c in CLASSES for i in (0, 1)))
    folder.images(*(f"test/{c}.jpg" for c in CLASSES))


def test_both_lists_are_read_and_split_by_class(folder):
    many(folder)
    frame, output = folder.read("products_10k")
    assert len(frame) == 72
    assert frame["sample_id"].tolist()[0] == "train/0.jpg"
    assert frame["image"].tolist()[-1] == "test/23.jpg"
    test = {str(c) for c in CLASSES if is_test(str(c))}
    assert set(frame["category_id"][frame["split"] == "test"]) == test
    assert 0 < len(test) < len(CLASSES)
    # The test list has no groups; the class determines the group.
    assert frame["group"].tolist()[-1] == "5"
    assert frame.groupby("category_id")["role"].nunique().eq(2).all()
    assert "left out: none" in output


def test_test_list_may_be_missing_or_without_classes(folder):
    train = ["0.jpg,1,g", "1.jpg,1,g"]
    folder.images("train/0.jpg", "train/1.jpg", "test/0.jpg")
    write(folder, train)
    frame, _ = folder.read("products_10k")
    assert len(frame) == 2
    folder.write("test.csv", "name\n0.jpg\n")
    _, output = folder.read("products_10k", "--overwrite")
    assert "without a class (1)" in output


def test_invalid_rows_raise_an_error(folder):
    write(folder, ["0.jpg,1,g", "1.jpg,,g"])
    message = folder.refuse("products_10k")
    assert "train.csv, line 3, column class: expected a non-empty" in message
    folder.write("train.csv", "name,label\n0.jpg,1\n")
    assert (
        "no column 'class'; the columns are 'name', 'label'"
        in folder.refuse("products_10k")
    )
    (folder.root / "train.csv").unlink()
    assert "There is no train.csv" in folder.refuse("products_10k")
