"""Tests the rows of the data-scale benchmark; no test asserts a time."""

import itertools
import json

import numpy as np
import pytest

from benchmarks import data_scale, data_start, partial_fc_torch
from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table

KEYS = (
    "samples",
    "workers",
    "prepare_per_s",
    "ratio_to_bare",
    "changed_contiguous",
    "changed_appended",
    "changed_scattered",
    "open_s",
    "resume_s",
    "host_mb",
    "delivered_per_s",
    "ratio_to_dataloader",
)


@pytest.mark.slow
def test_rows_of_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_scale, "_SECONDS", 0.01)
    monkeypatch.setattr(
        data_scale, "_torch_batches", lambda *_: (i for i in itertools.count())
    )
    monkeypatch.setattr(partial_fc_torch, "available", lambda: True)
    out = tmp_path / "rows.json"
    arguments = ["--samples=300", "--workers=1", "--side=16"]
    assert data_scale.main([*arguments, f"--json={out}"]) == 0
    (row,) = json.loads(out.read_text())
    assert tuple(row)[: len(KEYS)] == KEYS
    assert (row["samples"], row["workers"]) == (300, 1)
    for name in KEYS:
        assert row[name] > 0, name
    shown = capsys.readouterr().out
    assert f"{row['prepare_per_s']:,.0f}" in shown


def test_categories_have_two_samples_and_zipf_frequencies(tmp_path):
    path = data_scale.write(tmp_path, 4000, 16)
    frame = table.read_table(path)
    counts = frame["category_id"].value_counts()
    assert len(counts) == 100
    assert counts.min() >= 2
    assert counts.iloc[0] > 5 * counts.iloc[20]
    assert len({(tmp_path / name).read_bytes() for name in frame["image"]}) > 1
    again = tmp_path / "again"
    again.mkdir()
    assert data_scale.write(again, 4000, 16).read_bytes() == path.read_bytes()


def test_images_beyond_the_distinct_ones_are_links(tmp_path, monkeypatch):
    monkeypatch.setattr(data_scale, "_DISTINCT", 5)
    data_scale.write(tmp_path, 300, 16)
    assert (tmp_path / "7.jpg").samefile(tmp_path / "2.jpg")
    names = data_scale._names(tmp_path / "table.parquet", 300)
    images = data_scale.TorchImages(names)
    assert len(images) == 300
    torch = pytest.importorskip("torch")
    pixels = decoding.decode(tmp_path / "2.jpg", data_start.SIZE)
    assert torch.equal(images[7], torch.from_numpy(np.array(pixels)))


def test_inline_images_are_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(data_scale, "_DISTINCT", 5)
    monkeypatch.setattr(data_scale, "_ROWS", 100)
    path = data_scale.write(tmp_path, 300, 0)
    assert list(tmp_path.iterdir()) == [path]
    names = data_scale._names(path, 300)
    contents = [decoding.read(name) for name in names]
    assert len({*contents}) == 5
    assert contents[7] == contents[2]
    assert decoding.decode(contents[0], 1).shape == (1, 1, 3)


@pytest.mark.slow
def test_rows_of_inline_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_scale, "_SECONDS", 0.01)
    # The other test measures changed tables.
    changed = dict.fromkeys(KEYS[4:7], 0.5)
    monkeypatch.setattr(data_scale, "_changed", lambda *_: changed)
    out = tmp_path / "rows.json"
    arguments = ["--samples=300", "--workers=1", "--inline"]
    assert data_scale.main([*arguments, f"--json={out}"]) == 0
    (row,) = json.loads(out.read_text())
    assert row["ratio_to_dataloader"] is None
    assert row["prepare_per_s"] > 0
    assert "Images in the table" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples=10"], "--samples=10 must be numbers of 256 or more"),
        (["--samples=300,x"], "--samples=300,x must be"),
        (["--workers=0"], "--workers=0 must be numbers of 1 or more"),
        (["--side=4"], "--side is 4"),
    ],
)
def test_invalid_arguments_end_with_a_sentence(arguments, message, capsys):
    assert data_scale.main(arguments) == 2
    assert message in capsys.readouterr().err
