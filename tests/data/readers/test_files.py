import gzip
import json
import os

import pytest

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format
from mixer_jax.runtime.errors import UserError


def test_reads_records_with_bom_crlf_quotes_and_blank_lines(tmp_path):
    path = tmp_path / "a.csv"
    lines = ("\ufeffid, title ", '1,"two', 'lines, ""x"""', "", "2,größe", "")
    path.write_bytes("\r\n".join(lines).encode())
    assert list(files.records(path, ("id", "title"))) == [
        (f"{path}, line 2", {"id": "1", "title": 'two\r\nlines, "x"'}),
        (f"{path}, line 5", {"id": "2", "title": "größe"}),
    ]


def test_reads_gz_records_with_tabs_and_very_long_cells(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(f"id\tt\n1\t{'w' * 200_000}\n".encode()))
    ((_, cells),) = files.records(path, ("id",), "\t")
    assert len(cells["t"]) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (
            b"id\n1\n",
            r"line 1: there is no column 'title'; the columns are 'id'\.",
        ),
        (
            b"id,title\n1,a\n2\n",
            "line 3: the row has 1 cells, but the header has 2",
        ),
        (b"id,title\n1,\xff\n", "is not UTF-8"),
        (b'id,title\n1,"a\n2,b\n', "line 2: invalid CSV: .*an unclosed quote"),
        (b'id,title\n1,"a"b\n', "line 2: invalid CSV"),
    ],
)
def test_invalid_records_raise_an_error(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(files.records(path, ("id", "title")))


def test_damaged_gz_file_raises_an_error(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id\n" + b"1\n" * 9999)[:40])
    with pytest.raises(UserError, match=r"a\.csv\.gz cannot be read"):
        list(files.records(path, ("id",)))
    whole = bytearray(gzip.compress(b"id\n" + bytes(range(32, 127)) * 99))
    whole[20:40] = bytes(20)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.csv\.gz cannot be read"):
        list(files.records(path, ("id",)))
    path.write_bytes(b"no gz at all")
    with pytest.raises(UserError, match=r"a\.csv\.gz cannot be read"):
        list(files.records(path, ("id",)))


def test_json_lines_yields_objects(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(files.json_lines(path)) == [
        (f"{path}, line 1", {"a": 1}),
        (f"{path}, line 3", {"a": 2}),
    ]
    for wrong in ('{"a": 1}\n{"a"', '{"a": 1}\n[1]'):
        path.write_text(wrong)
        with pytest.raises(UserError, match="line 2"):
            list(files.json_lines(path))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_items_yields_one_object_at_a_time(
    tmp_path, monkeypatch, chunk, indent
):
    monkeypatch.setattr(files, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    items = [
        {"image_id": f"{i}.jpg", "class_id": i, "n": [{}]} for i in range(9)
    ]
    for whole in ({"info": {"x": [1]}, "images": items, "z": 1}, items):
        path.write_text(json.dumps(whole, indent=indent))
        got = list(files.json_items(path, "images"))
        assert [item for _, item in got] == items
        assert got[2][0] == f"{path}, images 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"other": []}', "no list 'images'"),
        ('{"images": [{"a": 1}, {"a', "images 2: invalid JSON"),
        ('{"images": [{"a": 1}', "images 2: invalid JSON"),
        ('{"images": [{"a": 1}, 7]}', "images 2: expected a JSON object"),
    ],
)
def test_invalid_json_items_raise_an_error(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        list(files.json_items(path, "images"))


def test_missing_file_error_lists_all_files(tmp_path):
    one = Format("The Set", ("a.csv: the list", "images/: the images"), None)
    (tmp_path / "b.csv").touch()
    assert files.require(one, tmp_path, "a.csv|b.csv") == [tmp_path / "b.csv"]
    with pytest.raises(UserError) as caught:
        files.require(one, tmp_path, "a.csv|c.csv")
    message = str(caught.value)
    assert (
        f"There is no a.csv or c.csv in {tmp_path}. Files of The Set" in message
    )
    assert "\n  a.csv: the list\n  images/: the images" in message


def test_cell_must_be_a_string_or_an_integer():
    assert files.cell({"a": 7}, "a", "here") == "7"
    assert files.cell({"a": " x "}, "a", "here") == "x"
    for wrong in ({}, {"a": ""}, {"a": None}, {"a": []}):
        with pytest.raises(
            UserError, match="here, column a: expected a non-empty"
        ):
            files.cell(wrong, "a", "here")


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000])
def test_json_that_python_cannot_parse_raises_an_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(f'{{"images": {content}}}')
    with pytest.raises(UserError, match="line 1: invalid JSON"):
        list(files.json_lines(path))
    path.write_text(f'{{"images": [{{"a": {content}}}]}}')
    with pytest.raises(UserError, match="images 1: invalid JSON"):
        list(files.json_items(path, "images"))
    path.write_text(f"[{content}]")
    with pytest.raises(UserError, match="is not valid JSON"):
        files.json_list(path)


@pytest.mark.parametrize("value", [True, 1.5, float("nan"), ["a"], {}])
def test_cell_of_another_type_raises_an_error(value):
    with pytest.raises(UserError, match=r"a\.json, column id: expected a non"):
        files.cell({"id": value}, "id", "a.json")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_or_folder_raises_an_error_without_waiting(tmp_path, make):
    make(tmp_path / "train.csv")
    with pytest.raises(UserError, match="it is not a regular file"):
        list(files.records(tmp_path / "train.csv", ("id",)))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "not UTF-8 text but UTF-16 text; save it again as UTF-8"),
        ("latin-1", "not UTF-8 text: line 3 has bytes in another encoding"),
    ],
)
def test_other_encodings_raise_an_error(tmp_path, suffix, encoding, message):
    path = tmp_path / f"a.{suffix}"
    content = "id\n1\né\n".encode(encoding)
    path.write_bytes(gzip.compress(content) if "gz" in suffix else content)
    with pytest.raises(UserError, match=message):
        list(files.records(path, ("id",)))


def test_gz_file_without_its_suffix_raises_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(b"id\n1\n"))
    with pytest.raises(UserError, match="but a gzip file"):
        list(files.records(path, ("id",)))
