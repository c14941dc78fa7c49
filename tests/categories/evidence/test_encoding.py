import contextlib
import dataclasses
import os

import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories.click_log import ClickLog
from mixer_jax.categories.evidence import encoding


@pytest.fixture
def log(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    at = str(tmp_path)
    return ClickLog(
        pd.DataFrame({"query_id": ["q0"], "image": [f"{at}/a"]}),
        pd.DataFrame(
            {
                "item_id": ["i0", "i1", "i2"],
                "image": [f"{at}/b", "", f"{at}/c"],
                "text": ["bee", "no image", ""],
            }
        ),
        pd.DataFrame(),
    )


def test_samples_are_encoded_once(log, tmp_path):
    calls = []

    def images(paths):
        calls.append(list(paths))
        return np.arange(1.0, len(paths) + 1)[:, None] * np.ones((1, 2))

    def texts(words):
        calls.append(list(words))
        return np.full((len(words), 3), 7.0)

    kept = tmp_path / "out" / "features.npz"
    first = encoding.encode(log, kept, "e1", images, texts)
    at = str(tmp_path)
    assert calls == [[f"{at}/a", f"{at}/b", f"{at}/c"], ["bee", "no image"]]
    assert first.query_image.tolist() == [[1, 1]]
    assert first.item_image.tolist() == [[2, 2], [0, 0], [3, 3]]
    assert first.item_text.tolist() == [[7] * 3, [7] * 3, [0] * 3]

    again = encoding.encode(log, kept, "e1", images, texts)
    assert len(calls) == 2
    np.testing.assert_array_equal(again.item_image, first.item_image)
    encoding.encode(log, kept, "e2", images, texts)
    assert len(calls) == 4
    (tmp_path / "a").write_text("another picture")
    encoding.encode(log, kept, "e2", images, texts)
    assert len(calls) == 6


def test_moved_files_with_new_times_are_not_encoded_again(log, tmp_path):
    def encode(log):
        return encoding.encode(
            log,
            tmp_path / "f.npz",
            "e",
            lambda paths: np.array([[ord(path[-1])] for path in paths]),
            lambda texts: np.ones((len(texts), 1)),
        )

    def fail(values):
        raise AssertionError(values)

    first = encode(log)
    for name in "abc":
        (tmp_path / "new").mkdir(exist_ok=True)
        os.rename(tmp_path / name, tmp_path / "new" / name)
        os.utime(tmp_path / "new" / name, ns=(3, 3))
    for frame in (log.queries, log.items):
        frame["image"] = [
            x and f"{tmp_path}/new/{x[-1]}" for x in frame["image"]
        ]
    again = encoding.encode(log, tmp_path / "f.npz", "e", fail, fail)
    np.testing.assert_array_equal(again.item_image, first.item_image)
    # The new times were saved, so no file is read again.
    for name in "ab":
        (tmp_path / "new" / name).write_text("z")
        os.utime(tmp_path / "new" / name, ns=(3, 3))
    encoding.encode(log, tmp_path / "f.npz", "e", fail, fail)
    os.utime(tmp_path / "new" / "a", ns=(4, 4))
    assert encode(log).query_image.tolist() == [[ord("a")]]
    os.utime(tmp_path / "new" / "b", ns=(4, 4))
    with pytest.raises(AssertionError):
        encoding.encode(log, tmp_path / "f.npz", "e", fail, fail)


def test_a_log_without_texts(log, tmp_path):
    log.items["text"] = ""
    got = encoding.encode(
        log, tmp_path / "f.npz", "", lambda p: np.ones((len(p), 2)), None
    )
    assert not got.item_text.any()


def test_an_interrupted_encoding_is_resumed(log, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_PART", 1)
    asked = []

    def images(paths):
        if len(asked) == 2:
            asked.append("interrupted")
            raise KeyboardInterrupt
        asked.extend(path[-1] for path in paths)
        return np.array([[ord(path[-1])] for path in paths])

    def encode():
        kept = tmp_path / "out" / "features.npz"
        return encoding.encode(
            log, kept, "e", images, lambda t: np.array([[len(x)] for x in t])
        )

    with pytest.raises(KeyboardInterrupt):
        encode()
    got = encode()
    assert asked == ["a", "b", "interrupted", "c"]
    assert got.query_image.tolist() == [[ord("a")]]
    assert got.item_image.tolist() == [[ord("b")], [0], [ord("c")]]
    assert got.item_text.tolist() == [[3], [8], [0]]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        "features.npz"
    ]


def test_parts_from_other_encoders_are_not_reused(log, tmp_path):
    def fail(paths):
        raise KeyboardInterrupt

    kept = tmp_path / "features.npz"

    def words(texts):
        return np.ones((len(texts), 1))

    with pytest.raises(KeyboardInterrupt):
        encoding.encode(log, kept, "e1", fail, words)
    assert list(tmp_path.glob(".features*"))
    encoding.encode(log, kept, "e2", lambda p: np.ones((len(p), 2)), words)
    assert not list(tmp_path.glob(".features*"))


def test_equal_values_are_encoded_once(log, tmp_path):
    log.items.loc[1, "image"] = log.queries.loc[0, "image"]
    log.items.loc[2, "text"] = "bee"
    asked = []

    def encode(values):
        asked.append([value[-3:] for value in values])
        return np.arange(len(values))[:, None] + 1.0

    got = encoding.encode(log, tmp_path / "f.npz", "", encode, encode)
    at = [path[-3:] for path in (*log.queries["image"], *log.items["image"])]
    assert asked == [[at[0], at[1], at[3]], ["bee", "age"]]
    assert got.item_image.tolist() == [[2], [1], [3]]
    assert got.item_text.tolist() == [[1], [2], [1]]


def test_new_ids_of_the_same_samples_are_saved(log, tmp_path):
    calls = []

    def encoder(values):
        calls.append(values)
        return np.ones((len(values), 2))

    kept = tmp_path / "features.npz"
    encoding.encode(log, kept, "e1", encoder, encoder)
    items = log.items.assign(item_id=["a", "b", "c"])
    other = dataclasses.replace(log, items=items)
    assert encoding.read(kept, log) is not None
    assert encoding.read(kept, other) is None
    encoding.encode(other, kept, "e1", encoder, encoder)
    assert len(calls) == 2
    assert encoding.read(kept, other) is not None
    assert encoding.read(kept, log) is None


def test_damaged_caches_are_encoded_again(log, tmp_path, monkeypatch):
    kept = tmp_path / "out" / "features.npz"

    def images(paths):
        return np.array([[ord(path[-1])] for path in paths])

    def encode(texts=lambda t: np.array([[len(x)] for x in t])):
        return encoding.encode(log, kept, "e", images, texts)

    whole = encode()
    content = kept.read_bytes()
    for damaged in (b"", b"x", content[:-40], content[:40]):
        kept.write_bytes(damaged)
        assert encode().item_image.tolist() == whole.item_image.tolist()
    kept.unlink()
    with pytest.raises(ZeroDivisionError):
        encode(lambda texts: 1 / 0)
    (part,) = kept.parent.glob(".features.npz.parts/*/images-0.npz")
    part.write_bytes(part.read_bytes()[:40])
    assert encode().item_image.tolist() == whole.item_image.tolist()


def test_encoding_continues_on_a_full_disk(log, disk, capsys):
    def images(paths):
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(512))
        return np.ones((len(paths), 2))

    def texts(words):
        return np.full((len(words), 3), 7.0)

    kept = disk / "features.npz"
    made = encoding.encode(log, kept, "e", images, texts)
    assert made.query_image.tolist() == [[1, 1]]
    assert made.item_text.tolist() == [[7] * 3, [7] * 3, [0] * 3]
    output = capsys.readouterr()
    assert f"features cannot be written to {kept}: No space" in (
        output.out + output.err
    )
    assert not kept.exists()
    assert not [p for p in disk.rglob("*") if p.name.endswith(".draft")]
