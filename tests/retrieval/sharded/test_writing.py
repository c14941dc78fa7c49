"""Folders of embeddings: contents, resuming, and rejected inputs."""

import hashlib
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mixer_jax import embed
from mixer_jax.data.tables import table
from mixer_jax.retrieval.sharded import embedder, layout, reading, writing
from mixer_jax.runtime import paths

SHARD_ROWS = 5


@pytest.fixture
def run(color_run, colors, tmp_path):
    """Returns a function that embeds the colors into a folder."""

    def embed_colors(*more, out="out"):
        given = {
            "--workdir": color_run / "stage2",
            "--table": colors[0] / "colors.csv",
            "--out": tmp_path / out,
            "--batch-size": 8,
            "--shard-rows": SHARD_ROWS,
        } | dict(option.split("=", 1) for option in more)
        return embed.main([f"{name}={value}" for name, value in given.items()])

    return embed_colors


@pytest.fixture
def embedded(monkeypatch):
    """The IDs of the embedded samples."""
    ids, call = [], embedder.Embedder.__call__

    def observed(self, frame, role, count):
        ids.extend(frame["sample_id"])
        return call(self, frame, role, count)

    monkeypatch.setattr(embedder.Embedder, "__call__", observed)
    return ids


def contents(folder):
    """Returns the bytes of all visible files, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != layout.WORK
    }


def test_a_folder_holds_what_a_file_holds(run, colors, tmp_path, capsys):
    assert run() == 0
    assert "12 queries and 12 documents (vectors with 3" in (
        capsys.readouterr().out
    )
    assert run("--out=" + str(tmp_path / "one.npz")) == 0
    wanted, found = (
        reading.read(tmp_path / name) for name in ("one.npz", "out")
    )
    np.testing.assert_array_equal(found.query_ids, wanted.query_ids)
    np.testing.assert_array_equal(found.document_ids, wanted.document_ids)
    for name in ("query_embeddings", "document_embeddings"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), atol=1e-6
        )
    assert sorted(contents(tmp_path / "out")) == [
        *(f"documents/part-0000{number}.parquet" for number in range(3)),
        "manifest.json",
        *(f"queries/part-0000{number}.parquet" for number in range(3)),
    ]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    files = manifest.pop("files")
    assert len(manifest.pop("fingerprint")) == 32
    assert manifest == {
        "format": 1,
        "step": 4,
        "D": 3,
        "queries": 12,
        "documents": 12,
        "skipped": 0,
    }
    for file in files:
        content = (tmp_path / "out" / file["name"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert [file["rows"] for file in files] == [5, 5, 2] * 2
    # Other libraries read a folder of parts as one table.
    rows = pq.read_table(tmp_path / "out" / "queries")
    assert rows.schema.field("embedding").type.list_size == 3
    frame = colors[1]
    queries = frame.sample_id[frame.role == "query"]
    assert rows["sample_id"].to_pylist() == list(queries)
    pandas = pd.read_parquet(tmp_path / "out" / "documents")
    np.testing.assert_allclose(
        np.stack(pandas["embedding"]), wanted.document_embeddings, atol=1e-6
    )


def test_finished_shards_are_kept(run, tmp_path, embedded, monkeypatch, capsys):
    assert run(out="whole") == 0
    total = len(embedded)
    embedded.clear()
    write = layout.write_bytes

    def fail_late(path, content, **options):
        if path.name == "part-00001.parquet" and "documents" in str(path):
            raise KeyboardInterrupt
        write(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(layout, "write_bytes", fail_late)
        assert run() == 75
    assert len(embedded) == 22
    with pytest.raises(layout.UserError, match="no complete embeddings"):
        reading.read(tmp_path / "out")
    assert run() == 0
    assert "4 of 6 shards are finished" in capsys.readouterr().err
    assert len(embedded) == total + 5
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    embedded.clear()
    assert run() == 0
    assert not embedded
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "changed", "removed"])
def test_a_damaged_part_is_noticed(run, tmp_path, embedded, damage, capsys):
    assert run() == 0
    whole, out = contents(tmp_path / "out"), tmp_path / "out"
    part = out / "queries" / "part-00001.parquet"
    content = part.read_bytes()
    if damage == "removed":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(content[:-1])
    else:
        part.write_bytes(content[:100] + b"\xff" + content[101:])
    with pytest.raises(
        layout.UserError, match=r"part-00001\.parquet is missing"
    ):
        reading.read(out)
    embedded.clear()
    assert run() == 0
    assert "part-00001.parquet is missing or damaged" in capsys.readouterr().err
    assert len(embedded) == SHARD_ROWS
    assert contents(out) == whole


def test_only_changed_shards_are_embedded_again(
    run, colors, tmp_path, embedded, monkeypatch
):
    root, frame = colors
    assert run() == 0
    embedded.clear()
    # A new modification time alone changes nothing.
    os.utime(root / "red_query_forward.png", ns=(3, 3))
    assert run() == 0
    assert not embedded
    # The new time is recorded, so that the images are not read again.
    with monkeypatch.context() as patch:
        patch.delattr(embedder, "digests")
        assert run() == 0
    # An image of one shard changes, and the last three documents are removed.
    (root / "red_query_forward.png").write_bytes(
        (root / "blue_query_forward.png").read_bytes()
    )
    queries = frame[frame.role == "query"]
    others = frame[frame.role == "document"].iloc[:-3]
    frame = pd.concat([queries, others])
    table.write_table(frame, root / "colors.csv")
    assert run() == 0
    first = queries.sample_id.iloc[:5].tolist()
    assert embedded == [*first, *others.sample_id.iloc[5:]]
    assert run(out="new") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    assert len(contents(tmp_path / "out")) == 6


def test_unreadable_images_are_left_out(run, colors, tmp_path, capsys):
    root, frame = colors
    (root / "red_query_forward.png").write_bytes(b"nothing")
    (root / "red_query_reverse.png").unlink()
    (root / "blue_document_forward.png").write_bytes(b"")
    assert run() == 2
    error = capsys.readouterr().err
    assert "of 24 samples skipped: unreadable images" in error
    assert re.search(r"colors.csv, line \d+: .*red_query_forward.png", error)
    assert not (tmp_path / "out" / "manifest.json").exists()
    remedy = re.search(r"raise --max-skipped to (\S+)\.\n", error)
    assert remedy
    # The finished shards are kept.
    assert run("--max-skipped=0.2") == 0
    assert "3 of 24 samples skipped" in capsys.readouterr().out
    found = reading.read(tmp_path / "out")
    missing = {"red_query_forward", "red_query_reverse"}
    queries = set(frame.sample_id[frame.role == "query"])
    assert set(found.query_ids) == queries - missing
    assert "blue_document_forward" not in found.document_ids
    listed = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert list(listed["kind"].sort_values()) == [
        *("empty", "missing", "not an image")
    ]
    at = listed.set_index("sample_id").loc["red_query_forward", "row"]
    assert frame["sample_id"].iloc[at - 1] == "red_query_forward"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["skipped"] == 3
    # An image that has become readable is embedded.
    (root / "red_query_reverse.png").write_bytes(
        (root / "red_document_reverse.png").read_bytes()
    )
    assert run("--max-skipped=0.2") == 0
    found = reading.read(tmp_path / "out")
    assert "red_query_reverse" in found.query_ids


def test_skipped_samples_are_listed_by_their_present_rows(
    run, colors, tmp_path, embedded
):
    """Their shard was embedded before other rows were inserted above them."""
    root, frame = colors
    (root / "blue_document_forward.png").write_bytes(b"")
    assert run("--max-skipped=0.2") == 0
    query = frame[frame["role"] == "query"].iloc[:1]
    more = [query.assign(sample_id=f"more {number}") for number in range(3)]
    changed = pd.concat([*more, frame])
    table.write_table(changed, root / "colors.csv")
    embedded.clear()
    assert run("--max-skipped=0.2") == 0
    assert not any("document" in name for name in embedded)
    (row,) = pd.read_csv(tmp_path / "out" / "skipped.csv")["row"]
    assert changed["sample_id"].iloc[row - 1] == "blue_document_forward"


def test_other_options_are_refused(run, colors, color_run, tmp_path, capsys):
    assert run() == 0
    whole = contents(tmp_path / "out")
    for option, message in (
        ("--batch-size=9", "were made with --batch-size=8; use --batch-size=8"),
        ("--shard-rows=6", "were made with --shard-rows=5; use --shard-rows=5"),
    ):
        assert run(option) == 2
        assert message in capsys.readouterr().err
    settings = tmp_path / "out" / layout.SETTINGS
    recorded = json.loads(settings.read_text())
    changed = recorded | {"fingerprint": "0" * 32}
    settings.write_text(json.dumps(changed))
    assert run() == 2
    assert "were made with another model (fingerprint 000" in (
        capsys.readouterr().err
    )
    settings.write_text("{}")
    assert run() == 2
    assert "damaged .work/settings.json or another" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out" / layout.WORK)
    manifest = tmp_path / "out" / layout.MANIFEST
    text = manifest.read_text()
    recorded = json.loads(text)["fingerprint"]
    manifest.write_text(text.replace(recorded, "1" * 32))
    assert run() == 2
    assert "another model (fingerprint 111" in capsys.readouterr().err
    manifest.write_text(text)
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_is_noticed_before_the_work(
    run, monkeypatch, embedded, capsys
):
    usage = writing.results.shutil.disk_usage

    def disk_usage(path):
        return usage(path)._replace(free=1000)

    monkeypatch.setattr(writing.results.shutil, "disk_usage", disk_usage)
    assert run() == 2
    assert re.search(
        r"need 0\.00 GB in \S+, which has 0\.00 GB free\. Free up space",
        capsys.readouterr().err,
    )
    assert not embedded


def test_a_bucket_holds_the_same_embeddings(
    run, bucket, tmp_path, embedded, monkeypatch
):
    assert run() == 0
    out = paths.make(f"{bucket}/embeddings")
    embedded.clear()
    write, parts = layout.write_bytes, []

    def fail_late(path, content, **options):
        parts.extend([path.name] * (path.suffix == ".parquet"))
        if parts.count("part-00002.parquet") == 2:
            raise KeyboardInterrupt
        write(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(layout, "write_bytes", fail_late)
        assert run(f"--out={out}") == 75
    assert len(embedded) == 24
    embedded.clear()
    assert run(f"--out={out}") == 0
    assert len(embedded) == 2
    here = tmp_path / "out"
    for name, content in contents(here).items():
        assert (out / name).read_bytes() == content
    np.testing.assert_array_equal(
        reading.read(out).query_embeddings, reading.read(here).query_embeddings
    )


def test_embeddings_do_not_depend_on_the_devices(run, tmp_path, monkeypatch):
    devices = embedder.jax.local_devices()
    assert len(devices) > 1
    assert run() == 0
    monkeypatch.setattr(embedder.jax, "local_devices", lambda: devices[:1])
    assert run(out="one") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
