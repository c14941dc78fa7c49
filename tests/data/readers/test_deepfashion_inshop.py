import json

import pytest

HEADER = "image_name item_id evaluation_status"
LINES = (
    "img/WOMEN/Dresses/id_00000002/02_1_front.jpg    id_00000002 train",
    "img/WOMEN/Dresses/id_00000002/02_2_side.jpg     id_00000002 train",
    "img/WOMEN/Dresses/id_00000002/02_3_back.jpg     id_00000002 train",
    "img/MEN/Denim/id_00000080/01_1_front.jpg        id_00000080 query",
    "img/MEN/Denim/id_00000080/01_2_side.jpg         id_00000080 gallery",
)
TEXTS = [
    {
        "item": "id_00000002",
        "color": "Black",
        "description": ["A dress. ", "With a größe"],
    },
    {"item": "id_00000002", "color": "Red", "description": ["Not this one"]},
    {"item": "id_00000080", "color": "Blue"},
]


def write(
    folder, lines=LINES, count=None, texts=TEXTS, prefix="", header=HEADER
):
    count = len(lines) if count is None else count
    folder.write(
        "Eval/list_eval_partition.txt",
        "\r\n".join((str(count), header, *lines)) + "\r\n",
    )
    if texts is not None:
        folder.write("Anno/list_description_inshop.json", json.dumps(texts))
    folder.images(*(prefix + line.split()[0] for line in lines))


def test_reads_roles_splits_and_texts(folder):
    write(folder)
    frame, _ = folder.read("deepfashion_inshop")
    assert frame["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert frame["role"].tolist()[3:] == ["query", "document"]
    assert (frame["role"][:3] == "query").sum() == 1
    assert frame["group"].tolist() == ["WOMEN/Dresses"] * 3 + ["MEN/Denim"] * 2
    documents = frame[frame["role"] == "document"]
    assert documents["text"].tolist() == (
        ["Black, Red. A dress. With a größe"] * 2 + ["Blue"]
    )
    assert frame["sample_id"].tolist() == [line.split()[0] for line in LINES]


def test_reads_without_texts_and_with_images_in_img_folder(
    folder,
):
    write(folder, texts=None, prefix="Img/")
    frame, _ = folder.read("deepfashion_inshop")
    assert set(frame["text"]) == {""}
    assert frame["image"][0].startswith("Img/img/WOMEN")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(count=7), "says 7 images, but the file lists 5"),
        (dict(count="x"), "line 1: the first line must be the number"),
        (dict(header="a b"), "line 2: the columns must be image_name"),
        (
            dict(lines=(LINES[0], "img/a.jpg id_1")),
            "line 4: the line has 2 words",
        ),
        (
            dict(lines=(LINES[0], "img/a.jpg id_1 val")),
            "line 4, column evaluation_status: 'val' is not one of train",
        ),
        (dict(texts={"item": "x"}), "is not a JSON list"),
        (dict(texts=[7]), "item 1: expected a JSON object"),
        (dict(texts=[{"color": "x"}]), "item 1, column item"),
    ],
)
def test_invalid_files_raise_an_error(folder, change, message):
    write(folder, **change)
    assert message in folder.refuse("deepfashion_inshop")


def test_missing_and_truncated_files_raise_an_error(folder):
    message = folder.refuse("deepfashion_inshop")
    assert "There is no Eval/list_eval_partition.txt" in message
    assert "list_description_inshop.json" in message
    write(folder)
    folder.write("Anno/list_description_inshop.json", '[{"item"')
    assert "is not valid JSON" in folder.refuse("deepfashion_inshop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "²"}, "line 1: the first line must be the number"),
        ({"count": "9" * 5000}, "line 1: the first line must be the number"),
        (
            {"texts": [TEXTS[0] | {"description": 5}]},
            "item 1, column description: expected a list, not 5",
        ),
        (
            {"texts": [TEXTS[0], TEXTS[2] | {"description": {"a": 1}}]},
            "item 2, column description: expected a list",
        ),
    ],
)
def test_values_of_wrong_types_raise_an_error(folder, options, message):
    write(folder, **options)
    assert message in folder.refuse("deepfashion_inshop")
