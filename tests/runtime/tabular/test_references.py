import hashlib
import pathlib

import pandas as pd
import pytest

from mixer_jax.runtime.tabular import references

CODE = "A" * 22


def test_a_name_is_a_reference_only_if_it_ends_in_row_and_digest():
    name = f"/data/shop/part#1.parquet#17@{CODE}"
    reference = references.parse(pathlib.Path(name))
    assert reference == ("/data/shop/part#1.parquet", 16, CODE)
    assert references.file_of(name) == "/data/shop/part#1.parquet"
    assert references.label(name) == "/data/shop/part#1.parquet, row 17"
    for path in (
        "a.jpg",
        "a#1.jpg",
        f"a#0@{CODE}",
        f"#1@{CODE}",
        f"a#1@{CODE}A",
        f"a#1@{CODE}.jpg",
        f"a#{'9' * 5000}@{CODE}",
    ):
        assert references.parse(path) is None
        assert references.file_of(path) == references.label(path) == path


@pytest.mark.parametrize("dtype", [object, "str"])
def test_columns_of_names_are_told_apart(dtype):
    other = "B" * 22
    names = pd.Series(
        ["a#1.jpg", f"a#1@{CODE}", "", f"b#2@{CODE}", f"a#3@{other}"],
        index=[5, 6, 7, 8, 9],
        dtype=dtype,
    )
    found = references.are_references(names)
    assert found.tolist() == [False, True, False, True, True]
    shown = references.contents(names)
    assert shown.tolist()[0::2] == ["a#1.jpg", "", f"#@{other}"]
    assert shown.tolist()[1] == shown.tolist()[3] == f"#@{CODE}"
    assert references.contents(names[:1]).tolist() == ["a#1.jpg"]
    assert references.are_references(names[:0]).tolist() == []


def test_digests_are_encoded_as_in_base64():
    contents = [bytes([number] * number) for number in range(50)]
    digests = [references.digest(content) for content in contents]
    whole = [hashlib.sha256(content).digest()[:16] for content in contents]
    assert digests == whole
    codes = references.encode(digests).to_pylist()
    assert len({*codes}) == 50
    assert all(references.parse(f"x#1@{code}") for code in codes)
    assert references.encode([]).to_pylist() == []
