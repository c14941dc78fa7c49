import json

import pytest


def listing(
    item, main="", others=(), names=(), domain="amazon.com", kind="CHAIR"
):
    made = {
        "item_id": item,
        "domain_name": domain,
        "item_name": [{"language_tag": a, "value": b} for a, b in names],
        "product_type": [{"value": kind}],
    }
    if main:
        made["main_image_id"] = main
    if others:
        made["other_image_id"] = list(others)
    return made


LISTINGS = [
    listing(
        "B1",
        "m1+",
        ["o1", "o2", "o3"],
        [("de_DE", "Stuhl"), ("en_US", "Chair größe")],
    ),
    listing("B1", "m1+", ["o1"], [("de_DE", "Stuhl")], domain="amazon.de"),
    listing("B2", names=[("ja_JP", "椅子")], kind="SOFA"),
    listing(
        "B2", "m2", names=[("en_IN", "Sofa")], domain="amazon.in", kind="SOFA"
    ),
]
IMAGES = {
    "m1+": "14/m1.jpg",
    "o1": "da/o1.jpg",
    "o2": "da/o2.jpg",
    "o3": "da/o3.png",
    "m2": "00/m2.jpg",
}


def write(folder, *parts, images=IMAGES, size="small"):
    for number, part in enumerate(parts):
        lines = "".join(json.dumps(one) + "\n" for one in part)
        folder.write(f"listings/metadata/listings_{number}.json.gz", lines)
    rows = [f"{name},256,256,{path}" for name, path in images.items()]
    folder.write(
        "images/metadata/images.csv.gz",
        "\n".join(("image_id,height,width,path", *rows)) + "\n",
    )
    folder.images(*(f"images/{size}/{path}" for path in images.values()))


def test_main_images_are_documents_and_others_queries(folder):
    write(folder, LISTINGS[:2], LISTINGS[2:])
    frame, output = folder.read("abo")
    frame = frame.set_index("sample_id")
    assert list(frame.index) == [
        "B1@amazon.com",
        "B1/o1",
        "B1/o2",
        "B1/o3",
        "B1@amazon.de",
        "B2@amazon.com",
        "B2@amazon.in",
    ]
    chair, stuhl = frame.loc["B1@amazon.com"], frame.loc["B1@amazon.de"]
    assert (chair["role"], chair["text"]) == ("document", "Chair größe")
    assert chair["image"] == stuhl["image"] == "images/small/14/m1.jpg"
    assert (stuhl["role"], stuhl["text"]) == ("document", "Stuhl")
    others = frame.loc[["B1/o1", "B1/o2", "B1/o3"]]
    assert (others["role"] == "query").sum() == 2  # half of four images
    sofa = frame.loc["B2@amazon.com"]
    assert (sofa["image"], sofa["text"]) == ("", "椅子")
    assert frame["group"].tolist() == ["CHAIR"] * 5 + ["SOFA"] * 2
    assert "with a repeated ID (1)" in output  # o1, listed in two countries


def test_options_select_languages_and_image_size(folder):
    write(folder, LISTINGS, size="original")
    folder.images("images/small/x")
    frame, _ = folder.read("abo", "--languages=de_DE,ja", "--size=original")
    texts = frame.set_index("sample_id")["text"]
    assert texts["B1@amazon.com"] == "Stuhl"
    assert texts["B2@amazon.com"] == "椅子"
    assert texts["B2@amazon.in"] == ""
    assert frame["image"][0] == "images/original/14/m1.jpg"


def test_unknown_images_and_empty_listings_are_counted(folder):
    write(
        folder,
        [
            *LISTINGS,
            listing("B3", "none"),
            listing("B4", "none", ["none"], [("en_US", "words")]),
        ],
    )
    frame, output = folder.read("abo")
    assert "with an image not listed in images.csv (3)" in output
    assert "listings with neither a main image nor a name (1)" in output
    assert "B3" not in set(frame["category_id"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"item_id": "B1"}\n{"item',
            "listings_0.json.gz, line 2: invalid JSON",
        ),
        (
            '{"item_name": []}\n',
            "line 1, column item_id: expected a non-empty string",
        ),
    ],
)
def test_invalid_lines_raise_an_error(folder, lines, message):
    write(folder, LISTINGS)
    folder.write("listings/metadata/listings_0.json.gz", lines)
    assert message in folder.refuse("abo")


def test_missing_files_raise_an_error(folder):
    assert "There is no listings/metadata" in folder.refuse("abo")
    write(folder)
    folder.write("listings/metadata/readme.txt", "")
    message = folder.refuse("abo")
    assert "There is no listings/metadata/listings_*.json.gz" in message
    assert "images/small/ or images/original/" in message


@pytest.mark.parametrize("value", [5, "o1", {"value": "o1"}, True])
@pytest.mark.parametrize("key", ["item_name", "product_type", "other_image_id"])
def test_values_that_are_not_lists_raise_an_error(folder, key, value):
    write(folder, [LISTINGS[0], LISTINGS[1] | {key: value}])
    message = folder.refuse("abo")
    assert (
        f"listings_0.json.gz, line 2, column {key}: expected a list" in message
    )
