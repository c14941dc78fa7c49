import contextlib
import json

import grain
import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.data.prepared import build
from mixer_jax.data.stream import pipeline, sampling, text
from mixer_jax.data.tables import samples, table
from mixer_jax.runtime.errors import UserError

QUERIES, DOCUMENTS, SIZE, LENGTH = 10, 14, 16, 6
# One configuration per sampler.
SAMPLERS = [
    sampling.Sampling(name, temperature=3.0, samples=2)
    for name in sampling.NAMES
]


@pytest.fixture(scope="module")
def tokenizer():
    return text.load("minilm", LENGTH)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows whose red value is the row number; some lack image or text."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(QUERIES + DOCUMENTS):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / f"{i}.png")
        role = table.QUERY if i < QUERIES else table.DOCUMENT
        image = "" if i == QUERIES else f"{i}.png"
        words = "" if i in (*range(QUERIES), QUERIES + 1) else f"thing {i}"
        row = (f"s{i}", role, image, words, f"c{i % 5}", "", "train")
        rows.append(row)
    # Roles are mixed, so a row's position is not its number.
    frame = pd.DataFrame(rows, columns=table.COLUMNS).sample(
        frac=1, random_state=0
    )
    return frame, pipeline.FileSource(frame, root)


def batches(data, tokenizer, count=None, **options):
    frame, source = data
    options = {
        "image_size": SIZE,
        "batch_size": 8,
        "augment": "none",
        "threads": 2,
    } | options
    columns = samples.from_frame(frame)
    iterator = pipeline.train_batches(columns, source, tokenizer, **options)
    if count is None:
        return iterator
    return [next(iterator) for _ in range(count)]


def numbers(batch):
    """Returns the row numbers in a batch of one role."""
    red = batch["image"][:, 0, 0, 0].tolist()
    return [QUERIES if one == 255 else one for one in red]


def concatenate_parts(parts):
    """Concatenates the processes' blocks of a batch."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_shapes_and_types(data, tokenizer):
    (batch,) = batches(data, tokenizer, 1)
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), batch) == {
        "query": {"image": ((4, 16, 16, 3), "uint8"), "label": ((4,), "int32")},
        "document": {
            "image": ((4, 16, 16, 3), "uint8"),
            "has_image": ((4,), "bool"),
            "tokens": ((4, LENGTH), "int32"),
            "token_mask": ((4, LENGTH), "bool"),
            "label": ((4,), "int32"),
        },
    }


def test_rows_keep_their_label_text_and_image(data, tokenizer):
    seen = set()
    for batch in batches(data, tokenizer, 12):
        documents = batch["document"]
        rows = numbers(documents)
        seen |= set(rows)
        assert documents["label"].tolist() == [row % 5 for row in rows]
        assert documents["has_image"].tolist() == [
            row != QUERIES for row in rows
        ]
        want = ["" if row == QUERIES + 1 else f"thing {row}" for row in rows]
        tokens, mask = tokenizer(want)
        np.testing.assert_array_equal(documents["tokens"], tokens)
        np.testing.assert_array_equal(documents["token_mask"], mask)
        query = batch["query"]
        assert query["label"].tolist() == [r % 5 for r in numbers(query)]
    assert seen == set(range(QUERIES, QUERIES + DOCUMENTS))


@pytest.mark.parametrize(
    ("role", "first", "count"),
    [("query", 0, QUERIES), ("document", QUERIES, DOCUMENTS)],
)
def test_every_sample_occurs_once_per_epoch_in_a_new_order(
    data, tokenizer, role, first, count
):
    got = batches(data, tokenizer, 3 * count // 4 + 1)
    rows = np.concatenate([numbers(batch[role]) for batch in got])
    epochs = [rows[i * count : (i + 1) * count] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(first, first + count))
    assert any(epochs[0] != epochs[1])
    assert any(epochs[1] != epochs[2])


def test_the_two_streams_are_shuffled_independently(tokenizer, tmp_path):
    rows = []
    for i in range(64):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
        for role in (table.QUERY, table.DOCUMENT):
            row = (f"{role}{i}", role, f"{i}.png", "", f"c{i}", "", "train")
            rows.append(row)
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    data = frame, pipeline.FileSource(frame, tmp_path)
    got = batches(data, tokenizer, 8, batch_size=32)
    query = np.concatenate([numbers(b["query"]) for b in got])
    document = np.concatenate([numbers(b["document"]) for b in got])
    assert (query == document).mean() < 0.2
    # Neither stream equals the next epoch of the other.
    assert (query[64:] == document[:64]).mean() < 0.2
    assert (query[:64] == document[64:]).mean() < 0.2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_do_not_depend_on_the_number_of_threads(
    data, tokenizer, threads, sampler
):
    options = {"augment": "strong", "seed": 5, "sampling": sampler}
    want = batches(data, tokenizer, 6, threads=2, **options)
    got = batches(data, tokenizer, 6, threads=threads, **options)
    assert_equal(got, want)
    other = batches(data, tokenizer, 6, **options | {"seed": 6})
    assert numbers(other[0]["query"]) != numbers(want[0]["query"])


def test_augmentation_differs_between_epochs(tokenizer, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    rows = [
        ("q", "query", "a.png", "", "c", "", "train"),
        ("d", "document", "a.png", "", "c", "", "train"),
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    data = frame, pipeline.FileSource(frame, tmp_path)
    got = batches(data, tokenizer, 3, batch_size=2, augment="light")
    pixels = [b[role]["image"] for b in got for role in ("query", "document")]
    assert len({image.tobytes() for image in pixels}) == 6


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_resumed_batches_match_uninterrupted_ones(
    data, tokenizer, stop, sampler
):
    options = {"augment": "strong", "sampling": sampler}
    want = batches(data, tokenizer, 14, **options)
    iterator = batches(data, tokenizer, **options)
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    fresh = batches(data, tokenizer, **options)
    fresh.set_state(state)
    assert_equal([next(fresh) for _ in range(14 - stop)], want[stop:])
    # An iterator that has advanced can also be reset.
    iterator.set_state(state)
    if stop < 14:
        assert_equal(next(iterator), want[stop])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", [2, 4])
def test_blocks_of_all_processes_form_the_global_batch(
    data, tokenizer, count, sampler
):
    options = {"augment": "strong", "sampling": sampler}
    whole = batches(data, tokenizer, 8, **options)
    parts = [
        batches(
            data,
            tokenizer,
            8,
            process_index=index,
            process_count=count,
            **options,
        )
        for index in range(count)
    ]
    for step, batch in enumerate(whole):
        assert_equal(concatenate_parts(part[step] for part in parts), batch)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_mapped_samples_give_the_same_batches(
    data, tokenizer, tmp_path, count, workers
):
    """This holds for any number of processes, including after a resume."""
    frame, source = data
    made = build.prepare(frame, source._root, tmp_path)
    samples, prepared = made.training()
    options = {"image_size": SIZE, "batch_size": 8, "sampling": SAMPLERS[2]}
    want = batches(data, tokenizer, 7, sampling=SAMPLERS[2], augment="strong")
    parts = []
    for index in range(count):
        iterator = pipeline.train_batches(
            samples,
            prepared,
            tokenizer,
            process_index=index,
            process_count=count,
            workers=workers if index == count - 1 else 0,
            **options,
        )
        with contextlib.closing(iterator):
            iterator.set_state({"next_index": 4})
            parts.append([next(iterator) for _ in range(3)])
    for step, whole in enumerate(want[4:]):
        assert_equal(concatenate_parts(part[step] for part in parts), whole)


def test_workers_compute_the_same_batches(data, tokenizer, tmp_path):
    frame, source = data
    prepared = build.prepare(frame, source._root, tmp_path).source()
    options = {"augment": "catalog", "sampling": SAMPLERS[1]}
    want = batches(data, tokenizer, 9, **options)
    for count, stop in ((1, 2), (2, 5)):
        # One process's half of each batch, from each of the two sources.
        part = {"process_index": 1, "process_count": 2}
        with contextlib.closing(
            batches(
                (frame, prepared if count == 2 else source),
                tokenizer,
                workers=count,
                **part,
                **options,
            )
        ) as iterator:
            iterator.set_state({"next_index": stop})
            got = [next(iterator) for _ in range(4)]
        for batch, whole in zip(got, want[stop : stop + 4], strict=True):
            assert_equal(batch, jax.tree.map(lambda leaf: leaf[2:], whole))


def test_error_names_an_unreadable_prepared_image(
    tokenizer, tmp_path, monkeypatch
):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [
        ("q7", "query", "a.png", "", "c", "", "train"),
        ("d", "document", "", "words", "c", "", "train"),
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    source = build.prepare(frame, tmp_path).source()

    def fail(*_):
        raise decoding.UnreadableImageError("an image: damaged.", "corrupt")

    monkeypatch.setattr(decoding, "decode", fail)
    with pytest.raises(decoding.UnreadableImageError, match="q7"):
        batches((frame, source), tokenizer, 1, batch_size=2)


def test_invalid_batches_raise_an_error(data, tokenizer):
    with pytest.raises(UserError, match="multiple of 6"):
        batches(data, tokenizer, process_count=3)
    with pytest.raises(UserError, match="light, strong"):
        batches(data, tokenizer, augment="string")
    frame, source = data
    queries = frame[frame["role"] == table.QUERY]
    with pytest.raises(UserError, match="no document"):
        batches((queries, source), tokenizer)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_error_names_an_image_that_became_unreadable(
    tokenizer, tmp_path, content
):
    rows = [
        ("q", "query", "a.png", "", "c", "", "train"),
        ("d", "document", "", "words", "c", "", "train"),
    ]
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    data = frame, pipeline.FileSource(frame, tmp_path)
    with pytest.raises(decoding.UnreadableImageError, match=r"a\.png"):
        batches(data, tokenizer, 1, batch_size=2)


def evaluate(data, tokenizer, role, **options):
    frame, source = data
    rows = np.flatnonzero(frame["role"] == role)
    options = {"image_size": SIZE, "batch_size": 4, "rows": rows} | options
    return list(pipeline.evaluation_batches(source, role, tokenizer, **options))


@pytest.mark.parametrize("threads", [0, 3])
def test_evaluation_visits_each_row_once_in_order(data, tokenizer, threads):
    frame, _ = data
    got = evaluate(data, tokenizer, "document", threads=threads)
    assert len(got) == 4
    assert all(batch["mask"].shape == (4,) for batch in got)
    mask = np.concatenate([batch["mask"] for batch in got])
    index = np.concatenate([batch["index"] for batch in got])
    assert mask.tolist() == [True] * DOCUMENTS + [False] * 2
    assert index.dtype == np.int32
    rows = np.flatnonzero(frame["role"] == "document")
    assert index.tolist() == [*rows, -1, -1]
    found = np.concatenate([numbers(batch["document"]) for batch in got])
    names = frame["sample_id"].iloc[rows]
    assert [f"s{number}" for number in found[mask]] == names.tolist()
    assert set(got[0]) == {"document", "mask", "index"}
    assert set(got[0]["document"]) == {
        "image",
        "has_image",
        "tokens",
        "token_mask",
    }


def test_evaluation_of_queries_has_only_images(data, tokenizer):
    got = evaluate(data, tokenizer, "query", batch_size=8)
    assert set(got[0]["query"]) == {"image"}
    assert sum(batch["mask"].sum() for batch in got) == QUERIES


def test_evaluation_processes_get_equally_many_batches(data, tokenizer):
    whole = evaluate(data, tokenizer, "query")
    parts = [
        evaluate(data, tokenizer, "query", process_index=index, process_count=2)
        for index in range(2)
    ]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for step, batch in enumerate(whole):
        assert_equal(concatenate_parts(part[step] for part in parts), batch)
    with pytest.raises(UserError, match="multiple"):
        evaluate(data, tokenizer, "query", batch_size=3, process_count=2)


def test_evaluation_without_rows_has_no_batches(data, tokenizer):
    frame, source = data
    queries = frame[frame["role"] == table.QUERY]
    assert evaluate((queries, source), tokenizer, "document") == []


def test_iterator_is_a_grain_iterator(data, tokenizer):
    assert isinstance(batches(data, tokenizer), grain.DatasetIterator)


def test_rows_can_be_read_without_their_images(data, tokenizer):
    decoded = []

    def decode(row, content, size):
        decoded.append(row)
        return None if row % 2 else decoding.decode(content, size)

    usual = evaluate(data, tokenizer, "document", threads=0)
    got = evaluate(data, tokenizer, "document", threads=0, decode=decode)
    for batch, wanted in zip(got, usual, strict=True):
        document, same = batch["document"], wanted["document"]
        np.testing.assert_array_equal(batch["index"], wanted["index"])
        has_image = same["has_image"] & (batch["index"] % 2 == 0)
        np.testing.assert_array_equal(document["has_image"], has_image)
        np.testing.assert_array_equal(
            document["image"][has_image], same["image"][has_image]
        )
        np.testing.assert_array_equal(document["tokens"], same["tokens"])
    assert any(row % 2 for row in decoded)
