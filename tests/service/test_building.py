"""Indexes built from a small table of colored squares."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import mixer_jax
from mixer_jax import embed
from mixer_jax.data.tables import table
from mixer_jax.retrieval.model import Model
from mixer_jax.retrieval.sharded import embedder
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.service import building, opening, sources
from mixer_jax.service.stores.local import LocalStore


@pytest.fixture
def given(color_run, colors):
    return {"workdir": color_run, "table": colors[0] / "colors.csv"}


@pytest.fixture
def embedded(monkeypatch):
    """The number of rows in each embedded frame."""
    counts, embed = [], embedder.Embedder.__call__

    def count(self, frame, *more):
        counts.append(len(frame))
        return embed(self, frame, *more)

    monkeypatch.setattr(embedder.Embedder, "__call__", count)
    return counts


def items(folder):
    with LocalStore.open(folder) as store:
        return {one.id: one for part in store.iterate(5) for one in part}


def embeddings(folder):
    found = items(folder)
    return np.stack([found[id].vectors[0].embedding for id in sorted(found)])


def with_columns(colors, **columns):
    """Rewrites the table with additional columns."""
    frame = colors[1].assign(**columns)
    tables.write(frame, colors[0] / "colors.csv")
    return frame


def test_documents_are_embedded_by_the_last_stage(given, colors, tmp_path):
    summary = building.build(tmp_path / "index", **given)
    assert summary[:2] == (12, 12)
    assert summary.items == 12
    root, frame = colors
    frame = frame[frame.role == "document"].set_index("sample_id")
    found = items(tmp_path / "index")
    assert set(found) == set(frame.index)
    for id, item in found.items():
        row = frame.loc[id]
        assert item[2:5] == (row.text, row.group, row.category_id)
        assert item.vectors[0].image == row.image
    red = found["red_document_forward"].vectors[0].embedding
    assert red @ [1, -1, -1] > 1.6
    model = mixer_jax.load(given["workdir"])
    with opening.open_with(tmp_path / "index", model) as index:
        assert index.images == root
        assert index.store.properties["step"] == 4
    paths = [root / name for name in frame.sort_index().image]
    np.testing.assert_allclose(
        embeddings(tmp_path / "index"), model.embed_documents(paths), atol=1e-6
    )


def test_a_split_is_selected(given, tmp_path):
    building.build(tmp_path / "index", **given, split="train")
    categories = {one.category for one in items(tmp_path / "index").values()}
    assert categories == {"gray", "white"}


def test_an_interrupted_build_is_continued(
    given, tmp_path, embedded, monkeypatch
):
    monkeypatch.setattr(sources, "ROWS", 5)
    monkeypatch.setattr(sources._parts, "__defaults__", (5,))
    upsert = LocalStore.upsert

    def stop(self, rows):
        if len(embedded) == 3:
            raise KeyboardInterrupt
        upsert(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "upsert", stop)
        with pytest.raises(KeyboardInterrupt):
            building.build(tmp_path / "index", **given)
    with pytest.raises(UserError, match="not complete; repeat the command"):
        LocalStore.open(tmp_path / "index")
    assert embedded == [5, 5, 2]
    building.build(tmp_path / "index", **given)
    assert embedded == [5, 5, 2, 2]
    assert len(items(tmp_path / "index")) == 12


def test_an_index_is_replaced_when_the_new_one_is_complete(
    given, colors, tmp_path
):
    building.build(tmp_path / "index", **given)
    with opening.open_with(tmp_path / "index") as index:
        (colors[0] / "red_document_forward.png").write_bytes(b"nothing")
        with pytest.raises(UserError, match="1 of 12"):
            building.build(tmp_path / "index", **given)
        assert len(index) == 12
        building.build(tmp_path / "index", **given, max_skipped=0.1)
        assert len(index) == 12
        assert len(items(tmp_path / "index")) == 11
    assert len(list((tmp_path / "index").glob("*.sqlite"))) == 1


def test_only_changed_rows_are_embedded_again(
    given, colors, tmp_path, embedded
):
    root, frame = colors
    building.build(tmp_path / "index", **given)
    assert embedded == [12]
    summary = building.add(tmp_path / "index", table=given["table"])
    assert (summary.written, embedded) == (0, [12])
    (root / "red_document_forward.png").write_bytes(
        (root / "blue_document_forward.png").read_bytes()
    )
    frame.loc[frame.sample_id == "green_document_forward", "text"] = "lime"
    frame.loc[frame.sample_id == "gray_document_forward", "group"] = "dull"
    more = frame[frame.role == "document"].iloc[:1].assign(sample_id="new")
    table.write_table(pd.concat([frame, more]), given["table"])
    summary = building.add(tmp_path / "index", table=given["table"])
    assert (summary.written, embedded, summary.items) == (3, [12, 3], 13)
    found = items(tmp_path / "index")
    red = found["red_document_forward"].vectors[0].embedding
    assert red @ [-1, -1, 1] > 1.6  # blue
    assert found["green_document_forward"].text == "lime"
    assert found["gray_document_forward"].group == "dull"


def test_an_unreadable_image_keeps_the_earlier_item(given, colors, tmp_path):
    building.build(tmp_path / "index", **given)
    before = items(tmp_path / "index")
    (colors[0] / "red_document_forward.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="1 of 12"):
        building.add(tmp_path / "index", table=given["table"])
    summary = building.add(
        tmp_path / "index", table=given["table"], max_skipped=0.1
    )
    assert summary.skipped.count == 1
    assert items(tmp_path / "index").keys() == before.keys()


def test_fields_are_columns(given, colors, tmp_path):
    price = [str(i) if i % 2 else "" for i in range(24)]
    with_columns(colors, price=price, brand="acme")
    kinds = {"price": "number", "brand": "text"}
    building.build(tmp_path / "index", **given, kinds=kinds)
    fields = items(tmp_path / "index")["red_document_forward"].fields
    assert fields == {"brand": "acme", "price": 1}
    with opening.open_with(tmp_path / "index") as index:
        hits = index.search(vector=[1, 0, 0], where={"price": {"max": 5}})
        assert sorted(hit.fields["price"] for hit in hits) == [1, 3, 5]
    with_columns(colors, price="cheap", brand="acme")
    with pytest.raises(UserError, match=r"line 3, column price: 'cheap' must"):
        building.add(tmp_path / "index", table=given["table"])
    with_columns(colors, prize="1", brand="acme")
    with pytest.raises(UserError, match="'prize'; did you mean 'price'"):
        building.add(tmp_path / "index", table=given["table"])


def test_rows_of_an_item_are_its_pictures(given, colors, tmp_path, monkeypatch):
    monkeypatch.setattr(sources._parts, "__defaults__", (1,))
    frame = colors[1]
    with_columns(colors, item_id=frame.category_id)
    summary = building.build(tmp_path / "index", **given)
    assert (summary.rows, summary.items) == (12, 6)
    red = items(tmp_path / "index")["red"]
    names = {"red_document_forward.png", "red_document_reverse.png"}
    assert {one.image for one in red.vectors} == names
    assert red.text == "red paint"


def test_images_outside_the_folder_of_the_table_are_found(
    given, colors, tmp_path
):
    root, frame = colors
    here = tmp_path / "elsewhere" / "colors.parquet"
    here.parent.mkdir()
    absolute = [str(root / name) for name in frame.image]
    table.write_table(frame.assign(image=absolute), here)
    building.build(tmp_path / "index", **given | {"table": here})
    with opening.open_with(tmp_path / "index") as index:
        assert index.images == tmp_path
        assert opening.check_images(index) == ""
        image = index.search(vector=[1, -1, -1], k=1)[0].image
        assert image.parent == root
    (tmp_path / "out").mkdir()
    options = given | {"table": here, "images": here.parent}
    with pytest.raises(UserError, match=r"outside the image folder .*--images"):
        building.build(tmp_path / "out", **options)
    building.build(tmp_path / "out", **options, thumbnails=8)
    assert len(items(tmp_path / "out")) == 12


def test_embeddings_of_a_folder_are_loaded(given, colors, tmp_path, embedded):
    out, run = tmp_path / "made", f"--workdir={given['workdir']}/stage2"
    arguments = [run, f"--table={given['table']}", f"--out={out}"]
    assert embed.main(arguments) == 0
    embedded.clear()
    building.build(tmp_path / "one", **given)
    assert embedded == [12]
    building.build(tmp_path / "two", **given, embeddings=out)
    assert embedded == [12]
    for id, one in items(tmp_path / "one").items():
        other = items(tmp_path / "two")[id]
        assert one[2:] == other[2:]
        assert one.vectors[0].content == other.vectors[0].content
        np.testing.assert_allclose(
            one.vectors[0].embedding, other.vectors[0].embedding, atol=1e-6
        )
    # Rows of the table are unchanged.
    assert building.add(tmp_path / "two", table=given["table"]).written == 0
    # Without a table, items have only IDs.
    building.build(tmp_path / "three", embeddings=out)
    assert len(items(tmp_path / "three")) == 12
    building.add(tmp_path / "three", embeddings=out, table=given["table"])
    assert items(tmp_path / "three")["red_document_forward"].text
    with LocalStore.open(tmp_path / "three") as store:
        store._database.set(fingerprint="other")
    with pytest.raises(UserError, match="come from a different model"):
        building.add(tmp_path / "three", embeddings=out)


def test_vectors_of_another_model_are_loaded(tmp_path, colors):
    path = tmp_path / "own.parquet"
    rows = {
        "sample_id": ["a", "b", "c"],
        "item_id": ["", "d", "d"],
        "embedding": [[1.0, 0], [0, 1.0], [1.0, 1]],
        "text": ["first", "", "second"],
        "price": [1.5, None, 2],
    }
    pd.DataFrame(rows).to_parquet(path)
    kinds = {"price": "number"}
    building.build(tmp_path / "index", embeddings=path, kinds=kinds)
    found = items(tmp_path / "index")
    assert len(found["d"].vectors) == 2
    assert found["d"].text == "second"
    assert found["a"].fields == {"price": 1.5}
    with opening.open_with(tmp_path / "index") as index:
        assert index.search(vector=[0, 1], k=1)[0].id == "d"
        with pytest.raises(UserError, match="vectors of an unknown model"):
            index.search(text="a")
    rows["embedding"][0] = [0, 1.0]
    pd.DataFrame(rows).to_parquet(path)
    assert building.add(tmp_path / "index", embeddings=path).written == 1
    with pytest.raises(UserError, match="an unknown model"):
        building.add(tmp_path / "index", table=colors[0] / "colors.csv")


def test_invalid_options_are_rejected_before_the_work(given, tmp_path):
    for change, message in (
        ({"table": ""}, "--table=FILE"),
        ({"workdir": ""}, "--workdir=FOLDER"),
        ({"storage": "f8"}, "no storage 'f8'"),
        ({"kinds": {"role": "text"}}, "the name 'role'"),
        ({"kinds": {"price": "number"}}, "Missing column 'price'"),
        ({"embeddings": tmp_path / "no"}, "no embeddings at"),
        ({"split": "no"}, "'no'"),
    ):
        with pytest.raises(UserError, match=message):
            building.build(tmp_path / "index", **given | change)
        assert not (tmp_path / "index").exists()


def test_embeddings_that_are_not_finite_are_rejected(
    given, tmp_path, monkeypatch
):
    embed = embedder.Embedder.__call__

    def fail(self, *arguments):
        made = embed(self, *arguments)
        return made._replace(embeddings=made.embeddings * np.nan)

    monkeypatch.setattr(embedder.Embedder, "__call__", fail)
    with pytest.raises(UserError, match="not finite; train"):
        building.build(tmp_path / "index", **given)


def test_embeddings_have_the_precision_of_the_export(given, tmp_path):
    from mixer_jax.service import exporting

    building.build(tmp_path / "index", **given, storage="int8")
    exporting.export(tmp_path / "index", tmp_path / "all.parquet")
    rows = pq.read_table(tmp_path / "all.parquet")
    stored = np.stack(rows["embedding"].to_pylist())
    np.testing.assert_allclose(stored, embeddings(tmp_path / "index"))


def test_a_folder_of_pictures_needs_no_model(
    trained, colors, tmp_path, monkeypatch
):
    """The index holds the model that embeds them."""
    calls = []

    def from_encoders():
        calls.append(len(calls))
        return Model(trained)

    monkeypatch.setattr(building.zero_shot, "from_encoders", from_encoders)
    root, _ = colors
    out = tmp_path / "index"
    (root / "damaged.png").write_bytes(b"")
    built = building.build(out, images=str(root), kinds={"brand": "text"})
    assert (built.items, built.skipped.count) == (24, 1)
    (example,) = built.skipped.examples
    assert example.startswith(f"{root / 'damaged.png'}: cannot be decoded")
    (root / "damaged.png").unlink()
    moved = out.rename(tmp_path / "moved")
    with mixer_jax.open_index(moved) as index:
        (hit,) = index.search(root / "red_query_forward.png", k=1)
        assert hit.id == "red_query_forward.png"
        assert hit.image == root / hit.id
    # Only new pictures are embedded later, with the model of the index.
    (root / "more.png").write_bytes(
        (root / "red_query_forward.png").read_bytes()
    )
    added = building.add(moved, images=str(root))
    assert (added.written, added.items, calls) == (1, 25, [0])
    (root / "sub").mkdir()
    (root / "more.png").rename(root / "sub" / "more.png")
    added = building.add(moved, images=str(root / "sub"))
    assert (added.written, added.items) == (1, 26)
    with pytest.raises(UserError, match="is outside"):
        building.add(moved, images=str(tmp_path))
    with pytest.raises(UserError, match="only be selected from a --table"):
        building.add(moved, images=str(root), split="test")


def test_a_folder_is_checked_before_anything_is_written(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        building.build(tmp_path / "out", images=str(tmp_path / "pictures"))
    assert not (tmp_path / "out").exists()


def test_an_interrupted_build_of_pictures_is_repeated(
    trained, colors, tmp_path, monkeypatch
):
    model = Model(trained)
    monkeypatch.setattr(building.zero_shot, "from_encoders", lambda: model)
    with monkeypatch.context() as patch:
        patch.setattr(building, "_identify", None)  # the model is saved
        with pytest.raises(TypeError):
            building.build(tmp_path / "index", images=str(colors[0]))
    summary = building.build(tmp_path / "index", images=str(colors[0]))
    assert summary.items == 24
