"""Strings in a file equal a list of them."""

import json
import pickle

import pyarrow as pa
import pytest

from mixer_jax.runtime.tabular import strings

NAMES = ["", "a", "größe ✓", "line\nbreak", "a"]


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "a [1]*"
    folder.mkdir()
    strings.write(folder / "names.arrow", NAMES)
    return folder / "names.arrow"


def test_strings_equal_the_list(path, monkeypatch):
    monkeypatch.setattr(strings, "_CHUNK", 2)
    for names in (strings.Strings(path), strings.Strings(path)):
        assert list(names) == NAMES
        assert list(reversed(names)) == NAMES[::-1]
        assert [names[i] for i in range(-5, 5)] == [*NAMES, *NAMES]
        assert names[1:4] == NAMES[1:4]
        assert names[::-2] == NAMES[::-2]
        assert names[3:1] == []
        assert len(names) == 5
        assert names.index("line\nbreak") == 3
        assert "b" not in names
        with pytest.raises(IndexError):
            names[5]
    assert [list(c) for c in strings.chunks(names)] == [
        NAMES[:2],
        NAMES[2:4],
        NAMES[4:],
    ]


@pytest.mark.parametrize("chunk", [2, 9])
def test_json_has_one_string_per_line(path, monkeypatch, chunk):
    monkeypatch.setattr(strings, "_CHUNK", chunk)
    text = strings.to_json(strings.Strings(path))
    assert text == json.dumps(NAMES, indent=0) + "\n"
    assert json.loads(strings.to_json([])) == []


def test_a_copy_opens_the_same_file(path):
    names = strings.Strings(path)
    sent = pickle.dumps(names)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == NAMES


def test_the_file_is_mapped(path):
    before = pa.total_allocated_bytes()
    strings.write(path, [f"name {i}" for i in range(100_000)])
    names = strings.Strings(path)
    assert names[99_999] == "name 99999"
    assert pa.total_allocated_bytes() - before < 1000


def test_an_empty_list_can_be_stored(path):
    strings.write(path, [])
    assert list(strings.Strings(path)) == []


@pytest.mark.parametrize("content", [b"", b"no arrow file", None])
def test_damaged_files_raise_an_error(path, content):
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] if content is None else content)
    with pytest.raises(ValueError, match=r"damaged|empty"):
        strings.Strings(path)
