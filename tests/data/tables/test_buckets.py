"""Tables and images are copied from buckets on local servers."""

import os
import shutil
import sys
from typing import ClassVar

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from mixer_jax.data import check, prepare
from mixer_jax.data.prepared import opening
from mixer_jax.data.tables import buckets, fetching, rules
from mixer_jax.runtime.errors import UserError


class Memory(MemoryFileSystem):
    """Stands in for s3fs, which requires other versions of our dependencies."""

    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    protocol = "s3"


@pytest.fixture(params=["gs", "s3"])
def place(request, monkeypatch, tmp_path):
    """The address of an empty folder in a bucket."""
    monkeypatch.setattr(fetching, "_PAUSE", 0.01)
    if request.param == "gs":
        yield f"{request.getfixturevalue('bucket')}/shop"
        return
    monkeypatch.setitem(sys.modules, "s3fs", fsspec)
    monkeypatch.setattr(Memory, "store", {})
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: True)
    fsspec.register_implementation("s3", Memory, clobber=True)
    Memory.clear_instance_cache()
    yield "s3://bucket/shop"
    fsspec.register_implementation("s3", "s3fs.core.S3FileSystem", clobber=True)


def upload(folder, place):
    """Copies a folder into a bucket."""
    system = buckets.file_system(place)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = f"{place}/{path.relative_to(folder)}"
            system.pipe_file(name, path.read_bytes())


def make_table(folder, place, parts):
    """Writes a table of six images, one at an address, and a missing image."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(6):
        name = f"images/größe {number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        image = f"{place}/{name}" if number == 5 else name
        role = ("query", "document")[number % 2]
        rows.append((f"s{number}", role, image, "", "c", "", "train"))
    rows.append(("s6", "query", "images/lost.png", "", "c", "", "train"))
    frame = pd.DataFrame(rows, columns=rules.COLUMNS)
    if not parts:
        frame.to_csv(folder / "table.csv", index=False)
        return
    (folder / "table.csv").mkdir()
    for start in (0, 4):
        part = folder / "table.csv" / f"part-{start}.csv"
        frame[start : start + 4].to_csv(part, index=False)
    (folder / "table.csv" / "_SUCCESS").touch()


def run(place, out, *arguments):
    more = ["--max-skipped=0.5", *arguments]
    return prepare.main([f"--table={place}", f"--out={out}", *more])


@pytest.mark.parametrize("parts", [False, True])
def test_table_and_images_are_copied_once(place, tmp_path, capsys, parts):
    make_table(tmp_path / "shop", place, parts)
    upload(tmp_path / "shop", place)
    shutil.rmtree(tmp_path / "shop")
    out = tmp_path / "out"
    assert run(f"{place}/table.csv", out) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"The copy of {place}/table.csv is {out}/table.csv" in said
    assert f"Fetched 6 images into {out}; 1 could not be fetched" in said
    assert f"such as {place}/images/lost.png: there is no such object" in said
    opened = opening.open_table(out / "table.csv", "train")
    assert len(opened.prepared.training()[0].first_image) == 6
    assert opened.unreadable.count == 1

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert run(f"{place}/table.csv/", out) == 0
    assert "Fetched 0 images" in capsys.readouterr().err
    for path, time in times.items():
        if "prepared" not in path.parts:
            assert path.stat().st_mtime_ns == time, path


def test_changed_table_is_copied_again(place, tmp_path):
    make_table(tmp_path / "shop", place, parts=False)
    upload(tmp_path / "shop", place)
    out = tmp_path / "out"
    table = tmp_path / "shop" / "table.csv"
    assert run(f"{place}/table.csv", out) == 0
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:4]))
    upload(tmp_path / "shop", place)
    assert run(f"{place}/table.csv", out) == 0
    opened = opening.open_table(out / "table.csv", "train")
    assert len(opened.prepared.training()[0].first_image) == 3
    assert [path.name for path in out.glob(".*")] == [".table.csv.origin"]


def test_passing_errors_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_PAUSE", 0.01)
    monkeypatch.setattr(buckets, "file_system", lambda address: None)
    errors = [TimeoutError("timed out"), RuntimeError("slow down")]

    def read(address, max_bytes):
        if errors:
            raise errors.pop()
        return address.encode()

    monkeypatch.setattr(buckets, "read", read)
    names = pd.Series(["a.png", "../a.png", "/a.png", ""])
    fetching.fetch(names, tmp_path, 10, "s3://bucket")
    assert (tmp_path / "a.png").read_bytes() == b"s3://bucket/a.png"
    assert os.listdir(tmp_path) == ["a.png"]


def test_large_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "file_system", lambda address: Memory())
    monkeypatch.setattr(Memory, "store", {})
    Memory().pipe_file("s3://bucket/a.png", bytes(100))
    assert buckets.read("s3://bucket/a.png", 100) == bytes(100)
    with pytest.raises(ValueError, match="more than 99 bytes"):
        buckets.read("s3://bucket/a.png", 99)


def test_missing_table_or_package_is_reported(place, tmp_path, capsys):
    with pytest.raises(UserError, match=r"none\.csv cannot be read: "):
        buckets.copy_table(f"{place}/none.csv", str(tmp_path))
    assert prepare.main([f"--table={place}/none.csv"]) == 2
    assert "set --out=FOLDER" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_missing_package_is_reported(monkeypatch, scheme):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "mixer_jax\[\w+\]"'):
        buckets.file_system(f"{scheme}://bucket/table.csv")


@pytest.mark.parametrize("name", ["https://a/b.csv", "s3://b.csv", "s3:///b"])
def test_other_addresses_are_refused(name, tmp_path, capsys):
    assert run(name, tmp_path) == 2
    assert "must be like gs://BUCKET" in capsys.readouterr().err


def test_other_commands_need_a_copy(capsys):
    assert check.main(["--table=s3://bucket/shop.csv"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "mixer_jax.data.prepare --table=ADDRESS --out=FOLDER" in said


@pytest.mark.parametrize("folder", ["_delta_log", "_temporary"])
def test_tables_with_invalid_parts_are_not_copied(
    place, tmp_path, capsys, folder
):
    make_table(tmp_path / "shop", place, parts=True)
    log = tmp_path / "shop" / "table.csv" / folder
    log.mkdir()
    (log / "0.json").write_text("{}")
    upload(tmp_path / "shop", place)
    assert run(f"{place}/table.csv", tmp_path / "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "is a Delta Lake table" in message or "is not complete" in message
    assert not (tmp_path / "out" / "table.csv").exists()


def test_other_files_are_not_replaced_by_a_copy(place, tmp_path, capsys):
    make_table(tmp_path / "shop", place, parts=False)
    upload(tmp_path / "shop", place)
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "table.csv"
    mine.write_text("mine")
    assert run(f"{place}/table.csv", tmp_path / "out") == 2
    assert "Choose another folder" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert run(f"{place}/prepared", tmp_path / "out") == 2
