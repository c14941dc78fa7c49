HEADER = "posting_id,image,image_phash,title,label_group"


def write(folder, *rows, header=HEADER):
    content = "\r\n".join((header, *rows)) + "\r\n"
    folder.write("train.csv", "\ufeff" + content)


def test_only_documents_have_titles_and_shared_images_one_role(folder):
    write(
        folder,
        'train_1,a.jpg,94974f937d4c2433,"Bag, ""Secret""",249114794',
        "train_2,a.jpg,94974f937d4c2433,Tas kértas ✓,249114794",
        "train_3,b.jpg,af3f9460c2838f0f,Double Tape,249114794",
        "train_4,c.jpg,af3f9460c2838f0f,Tape,249114794",
        "train_5,gone.jpg,af3f9460c2838f0f,Tape,249114794",
    )
    folder.images(*(f"train_images/{name}.jpg" for name in "abc"))
    frame, output = folder.read("shopee")
    frame = frame.set_index("sample_id")
    assert list(frame.index) == [f"train_{i}" for i in range(1, 5)]
    assert frame["role"]["train_1"] == frame["role"]["train_2"]
    queries = frame["image"][frame["role"] == "query"].nunique()
    assert queries == 1  # of three files
    titles = {
        "train_1": 'Bag, "Secret"',
        "train_2": "Tas kértas ✓",
        "train_3": "Double Tape",
        "train_4": "Tape",
    }
    for name, one in frame.iterrows():
        assert one["text"] == ("" if one["role"] == "query" else titles[name])
    assert frame["image"]["train_3"] == "train_images/b.jpg"
    assert "with a missing or empty image file (1)" in output


def test_invalid_rows_raise_an_error(folder):
    write(folder, "train_1,a.jpg,9,Title,")
    message = folder.refuse("shopee")
    assert (
        "train.csv, line 2, column label_group: expected a non-empty" in message
    )
    write(folder, "train_1,a.jpg", header="posting_id,image")
    assert "no column 'title'" in folder.refuse("shopee")
    write(folder, 'train_1,a.jpg,9,"a\nb",1,more')
    assert "line 2: the row has 6 cells" in folder.refuse("shopee")
    (folder.root / "train.csv").unlink()
    assert "There is no train.csv" in folder.refuse("shopee")
