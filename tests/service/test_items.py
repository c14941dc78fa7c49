"""An open index with a run of the color model."""

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.data.images import decoding
from mixer_jax.retrieval import bundle
from mixer_jax.retrieval.calibration import Calibration, Curve
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import building, rebuilding

RED, BLUE, GREEN = ((255, 0, 0), (0, 0, 255), (0, 255, 0))


def picture(color):
    return Image.new("RGB", (10, 20), color)


@pytest.fixture
def model(color_run):
    return mixer_jax.load(color_run)


@pytest.fixture
def index(model, tmp_path):
    with mixer_jax.open_index(tmp_path / "shop", model) as opened:
        yield opened


@pytest.fixture
def filled(index):
    index.upsert(
        ["r", "b", "t"],
        images=[picture(RED), np.array(picture(BLUE)), None],
        texts=["red shoe", None, "blue hat"],
        fields=[{"brand": "acme", "price": 20}, {"brand": "zen"}, None],
        groups=["shoes", None, "hats"],
        categories=["1", "2", None],
    )
    return index


def ids(hits):
    return [hit.id for hit in hits]


def test_hits_have_probabilities_if_the_index_is_calibrated(
    filled, model, tmp_path
):
    assert filled.search(picture(RED))[0].probability is None
    with pytest.raises(UserError, match="index calibrate"):
        filled.search(picture(RED), min_probability=0.5)
    curve = Curve((0.0, 1.0), (0.1, 0.7))
    known = Calibration(curve, curve, 100, 3, 0.01, 0.02, 1)
    filled.store.calibrate(known)
    hits = filled.search(picture(RED))
    found = [hit.probability for hit in hits]
    scores = [hit.score for hit in hits]
    np.testing.assert_allclose(found, known.rate(scores))
    assert found[0] == pytest.approx(0.7)
    red = filled.get("r").vectors[0].embedding
    for threshold, count in ((0.0, 3), (0.11, 1), (0.69, 1), (0.71, 0)):
        kept = filled.search(vector=red, min_probability=threshold)
        assert len(kept) == count, threshold
    # Pages have the probabilities of the whole ranking.
    other = curve._replace(probabilities=(0.0, 0.3))
    filled.store.calibrate(known._replace(others=other))
    whole = [hit.probability for hit in filled.search(picture(RED))]
    pages = [filled.search(picture(RED), k=1, offset=i)[0] for i in range(3)]
    assert [hit.probability for hit in pages] == pytest.approx(whole)
    # The calibration was fitted to pictures.
    assert filled.search(text="shoe")[0].probability is None
    with pytest.raises(UserError, match="by a picture alone or a vector"):
        filled.search(text="shoe", min_probability=0.5)
    for bad in (-0.1, 1.1, np.nan, True, "1"):
        with pytest.raises(UserError, match="must be a number from 0 to 1"):
            filled.search(picture(RED), min_probability=bad)
    with mixer_jax.open_index(tmp_path / "shop", model) as again:
        assert again.store.calibration == known._replace(others=other)


def test_an_index_inherits_the_calibration_of_its_model(model, tmp_path):
    curve = Curve((0.5,), (0.3,))
    known = Calibration(curve, curve, 100, 3, 0.01, 0.02, model.step)
    rows = [{"calibration": known._asdict()}]
    rows[0] |= dict(stage="s", split="test", gallery="test")
    rows[0] |= dict(queries=1, documents=1)
    bundle.write(model._trained, tmp_path / "bundle", rows)
    with mixer_jax.open_index(tmp_path / "mine", tmp_path / "bundle") as index:
        index.upsert(["r"], images=[picture(RED)])
        assert index.search(picture(RED))[0].probability == 0.3
    out, table = tmp_path / "built", tmp_path / "table.csv"
    picture(RED).save(tmp_path / "red.png")
    table.write_text(
        "sample_id,role,image,text,category_id,group,split\n"
        "r,document,red.png,,c,,test\n"
    )
    building.build(out, workdir=str(tmp_path / "bundle"), table=str(table))
    with mixer_jax.open_index(out) as index:
        assert index.search(picture(RED))[0].probability == 0.3
    rebuilding.rebuild(out, tmp_path / "bundle")
    with mixer_jax.open_index(out) as index:
        assert index.store.calibration == known


def test_items_are_found_by_picture_text_and_vector(filled):
    first, *others = filled.search(picture(RED), k=2)
    assert (first.id, first.text, first.group) == ("r", "red shoe", "shoes")
    assert first.category == "1"
    assert first.fields == {"brand": "acme", "price": 20}
    assert first.score == pytest.approx(1)
    assert decoding.decode(first.image, 8).max() == 255
    assert len(others) == 1
    # Text queries are embedded like documents without a picture.
    (hit,) = filled.search(text="anything", k=1)
    assert (hit.id, hit.image) == ("b", hit.image)
    assert ids(filled.search(picture(RED), text="shoe", k=1)) == ["r"]
    assert ids(filled.search(vector=[1, -1, -1], k=1)) == ["r"]
    assert ids(filled.search(picture(RED), where={"brand": "zen"})) == ["b"]
    assert ids(filled.search(picture(RED), where={"group": "hats"})) == ["t"]
    assert ids(filled.search(picture(RED), min_score=0.9)) == ["r"]
    assert ids(filled.search(picture(RED), k=2)) == ids(
        [
            *filled.search(picture(RED), k=1),
            *filled.search(picture(RED), k=1, offset=1),
        ]
    )
    assert len(filled.search(picture(RED), group_by="brand")) == 3


def test_several_queries_get_several_answers(filled):
    both = filled.search([picture(RED), picture(BLUE)], k=1)
    assert [ids(one) for one in both] == [["r"], ["b"]]
    assert both[0] == filled.search(picture(RED), k=1)
    assert filled.search(vector=np.eye(3), k=1)[2][0].id in ("b", "t")
    assert len(filled.search(text=["a", "b"], k=1)) == 2
    assert len(filled.search([picture(RED)], text=["a"], k=1)) == 1


def test_invalid_queries_are_rejected(filled):
    for given, message in (
        ({}, "needs a picture, a text or a vector"),
        ({"vector": [1, 2, 3], "text": "a"}, "with a vector"),
        ({"vector": [1, 2]}, r"shape \(1, 2\)"),
        ({"picture": picture(RED), "text": ["a"]}, "one text per picture"),
        ({"picture": "gone.png"}, "missing"),
        ({"vector": [1, 2, 3], "k": 0}, "k is 0; it must be an integer of 1"),
        ({"vector": [1, 2, 3], "offset": -1}, "offset is -1"),
        ({"vector": [1, 2, 3], "k": 1.5}, "k is 1.5"),
        ({"vector": [1, 2, 3], "where": {"x": 1}}, "no field 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            filled.search(**given)


def test_only_changed_items_are_embedded(filled, model, monkeypatch):
    embedded = []
    embed = model.embed_documents

    def count(images, texts, **options):
        embedded.append(len(texts))
        return embed(images, texts, **options)

    monkeypatch.setattr(model, "embed_documents", count)
    given = {"texts": ["red shoe", "new", "blue hat"]}
    given["images"] = [picture(RED), picture(BLUE), None]
    filled.upsert(["r", "b", "t"], **given, fields=[{"price": 5}, None, None])
    assert embedded == [1]
    assert filled.get("r").fields == {"price": 5}
    assert filled.get("b").text == "new"
    filled.upsert(["r", "b", "t"], **given)
    assert embedded == [1]
    assert filled.get("none") is None
    assert filled.delete(["r", "none"]) == 1
    assert len(filled) == 2


def test_items_may_have_several_pictures(index):
    index.upsert(["a"], images=[[picture(RED), picture(BLUE)]])
    index.upsert(["b"], images=[picture(GREEN)])
    for color in (RED, BLUE):
        hit, other = index.search(picture(color), k=5)
        assert (hit.id, other.id) == ("a", "b")
        assert hit.score == pytest.approx(1)
        shown = decoding.decode(hit.image, 8)[4, 4]
        assert np.abs(shown.astype(int) - color).max() < 30
    index.upsert(["a"], images=[picture(GREEN)])
    assert index.store.count_vectors() == 2


def test_pictures_in_the_image_folder_are_not_copied(model, colors, tmp_path):
    root, _ = colors
    given = {"images": root, "thumbnails": 0}
    with mixer_jax.open_index(tmp_path / "new", model, **given) as index:
        path = root / "red_query_forward.png"
        index.upsert(["a", "b"], images=[path, picture(BLUE)])
        assert index.get("a").vectors[0].image == path.name
        assert index.search(picture(RED), k=1)[0].image == path
        assert index.search(picture(BLUE), k=1)[0].image is None
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    given = {"images": moved}
    with mixer_jax.open_index(tmp_path / "new", model, **given) as index:
        assert index.search(picture(RED), k=1)[0].image == moved / path.name


def test_names_outside_the_image_folder_are_not_read(filled, tmp_path):
    filled.images = tmp_path
    for name in ("../x.png", "/etc/passwd", "a/../../b.png", "~/x.png", ""):
        assert filled.path_of(name) is None
    assert filled.path_of("a/b.png") == tmp_path / "a" / "b.png"


def test_vectors_may_be_given(index):
    index.upsert(
        ["a", "b"], vectors=[[1, 0, 0], np.eye(3)[1:]], texts=["x", None]
    )
    assert index.store.count_vectors() == 3
    assert ids(index.search(vector=[0, 0, 1], k=1)) == ["b"]
    index.upsert(["a"], vectors=[[0, 0, 5]])
    assert index.search(vector=[0, 0, 1], k=1)[0].score == pytest.approx(1)


def test_fields_of_the_first_upsert_are_declared(filled):
    assert filled.store.fields == {"brand": "text", "price": "number"}
    with pytest.raises(UserError, match="'brnad'; did you mean 'brand'"):
        filled.upsert(["x"], texts=["x"], fields=[{"brnad": "x"}])


def test_an_invalid_first_upsert_declares_no_fields(index):
    given = {"vectors": [[0, 0, 0]], "fields": [{"size": 1}]}
    with pytest.raises(UserError, match="zero or not finite"):
        index.upsert(["a"], **given)
    assert index.store.fields == {}
    index.upsert(["a"], vectors=[[1, 0, 0]], fields=[{"size": "L"}])
    assert index.store.fields == {"size": "text"}


def test_the_first_picture_stays_the_first(index):
    red, green, blue = map(picture, (RED, GREEN, BLUE))
    index.upsert(["a"], images=[[red, blue]])
    index.upsert(["a"], images=[[green, blue]])
    first, second = index.get("a").vectors
    assert first.embedding.argmax() == 1
    assert second.embedding.argmax() == 2


def test_invalid_items_are_rejected(index):
    for ids, given, message in (
        ("a", {"texts": ["a"]}, "ids is a single ID"),
        ([1], {"texts": ["a"]}, "The ID 1 has type int"),
        (["a"], {}, "no picture, text, or vector"),
        (["a"], {"texts": [" "]}, "no picture, text, or vector"),
        (["a"], {"texts": "a"}, "texts is not a list"),
        (["a"], {"texts": ["a", "b"]}, "1 IDs but 2 texts"),
        (["a"], {"texts": [1]}, "of type int; it must be a string"),
        (["a"], {"images": ["gone.png"]}, "'a': gone.png: the file is missing"),
        (["a"], {"images": picture(RED)}, "images is a single picture"),
        (["a"], {"images": [1.5]}, "type float"),
        (["a"], {"vectors": [[1, 2]]}, r"shape \(2,\)"),
        (
            ["a"],
            {"vectors": [np.eye(3)], "images": [[picture(RED)]]},
            "1 pictures but 3 vectors",
        ),
    ):
        with pytest.raises(UserError, match=message):
            index.upsert(ids, **given)
    assert len(index) == 0
    index.upsert([])
