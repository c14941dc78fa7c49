"""Tests that all sides of the input benchmark decode the same images.

No test asserts a time.
"""

import json
import math

import numpy as np
import pytest

from benchmarks import input_pipeline, input_sides, partial_fc_torch
from mixer_jax.data.images import decoding
from tests import broken_files

KEYS = (
    "pipeline",
    "source",
    "size",
    "workers",
    "images_per_s",
    "ratio_to_bare",
)
TINY = ("--size=8", "--images=8", "--batch=4", "--batches=1", "--rounds=1")
TINY += ("--rows=12",)


def test_rows_of_the_json(tmp_path, monkeypatch, capsys):
    # Processes start slowly; tests/data/stream/test_workers.py tests them.
    ours = input_sides.ours
    monkeypatch.setattr(
        input_sides,
        "ours",
        lambda data, source, processes, augment: ours(
            data, source, False, augment
        ),
    )
    monkeypatch.setattr(input_sides, "peer", lambda data: 1.0)
    monkeypatch.setattr(partial_fc_torch, "available", lambda: True)
    out = tmp_path / "rows.json"
    arguments = ["--stored=16,24", "--workers=1", *TINY, f"--json={out}"]
    assert input_pipeline.main(arguments) == 0
    rows = json.loads(out.read_text())
    names = [(row["pipeline"], row["source"]) for row in rows]
    assert names[: len(names) // 2] == [
        ("bare", "files"),
        ("threads", "files"),
        ("threads", "array_record"),
        ("processes", "files"),
        ("processes", "array_record"),
        ("threads, strong", "files"),
        ("threads, strong", "array_record"),
        ("processes, strong", "files"),
        ("processes, strong", "array_record"),
        ("torch DataLoader", "files"),
    ]
    assert [row["size"] for row in rows] == [16] * 10 + [24] * 10
    for row in rows:
        assert tuple(row)[: len(KEYS)] == KEYS
        assert (row["workers"], row["rounds"], row["images"]) == (1, 1, 4)
        assert math.isfinite(row["images_per_s"])
        assert row["images_per_s"] > 0
        limit = rows[0 if row["size"] == 16 else 10]["images_per_s"]
        assert row["ratio_to_bare"] == pytest.approx(
            row["images_per_s"] / limit
        )
    assert rows[9]["images_per_s"] == 4
    printed = capsys.readouterr().out
    assert rows[0]["machine"] in printed
    assert "torch DataLoader" in printed


def test_the_ratio_is_the_median_over_rounds(monkeypatch, data):
    times = {"bare": iter([9.0, 1.0, 2.0, 8.0]), "other": iter([2.0, 4.0, 4.0])}
    monkeypatch.setattr(input_sides, "Data", lambda problem, folder: data)
    monkeypatch.setattr(
        input_sides,
        "contenders",
        lambda *_: {
            (name, "files"): lambda seconds=seconds: next(seconds)
            for name, seconds in times.items()
        },
    )
    bare, other = input_pipeline.measure(data.problem, "none", 3)
    assert (bare["ratio_to_bare"], other["ratio_to_bare"]) == (1, 0.5)
    assert (bare["images_per_s"], other["images_per_s"]) == (8 / 2, 8 / 4)
    assert (bare["slowest_per_s"], bare["fastest_per_s"]) == (1, 8)


@pytest.fixture
def data(tmp_path):
    problem = input_sides.Problem(
        stored=20,
        size=8,
        format="png",
        images=8,
        rows=8,
        batch=4,
        workers=1,
        batches=2,
    )
    return input_sides.Data(problem, tmp_path)


def test_all_sides_decode_the_same_images(data, monkeypatch):
    expected = {decoding.decode(path, 8).tobytes() for path in data.paths}
    assert len(expected) == 8
    decode, seen = decoding.decode, []

    def spy(*arguments):
        seen.append(decode(*arguments))
        return seen[-1]

    monkeypatch.setattr(decoding, "decode", spy)
    for source in data.sources:
        for run in (
            lambda: input_sides.bare(data),
            lambda source=source: input_sides.ours(data, source, False, "none"),
        ):
            seen.clear()
            assert run() > 0
            # the images of the timed round, and those read ahead
            assert len(seen) >= 8
            assert {pixels.tobytes() for pixels in seen} == expected


def test_the_torch_dataset(data):
    pytest.importorskip("torch")
    given = input_sides.TorchImages(data.paths, 8, 20)
    assert len(given) == 20
    pixels, label = given[11]
    np.testing.assert_array_equal(pixels, decoding.decode(data.paths[3], 8))
    assert label == 1


def test_pictures_compress_like_photographs():
    one, other = (input_sides.picture(256, seed) for seed in range(2))
    assert one.tobytes() != other.tobytes()
    bits = 8 * len(broken_files.encode(one, "jpeg", quality=90)) / 256**2
    assert 1 < bits < 4  # per pixel


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stored=16,big"], ["--stored", "big"]),
        (["--size=0"], ["--size", "1"]),
        (["--batch=3"], ["--batch", "even"]),
        (["--workers=0"], ["--workers", "1"]),
        (["--format=gif"], ["gif", "jpeg", "png"]),
        (["--augment=string"], ["string", "light"]),
    ],
)
def test_invalid_arguments_are_errors(arguments, words, capsys):
    assert input_pipeline.main([*TINY, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(word in message for word in words)
    assert message.count("\n") == 1
