import os
import pathlib

import pandas as pd
import pytest

from mixer_jax.runtime.tabular import addresses, references

ADDRESS = "https://shop.example/a.jpg?size=big&x=1#top"


@pytest.mark.parametrize("dtype", [object, "str"])
def test_addresses_become_names_of_files(dtype):
    cells = ["a.jpg", ADDRESS, "", "http://x/a.jpg", "b/https://x"]
    found = addresses.localize(pd.Series(cells, dtype=dtype))
    assert found.dtype == pd.Series(cells, dtype=dtype).dtype
    name = found[1]
    assert found[found != name].tolist() == [cells[0], *cells[2:]]
    path, address = addresses.split(name)
    assert address == ADDRESS
    assert path == addresses.file(ADDRESS)
    assert path.startswith("fetched/")
    assert "shop" not in path


@pytest.mark.parametrize("box", ["", "#box=1,2,3,4"])
def test_names_survive_joining_and_normalizing(box):
    (name,) = addresses.localize(pd.Series([ADDRESS])) + box
    for path in (
        f"/shop/{name}",
        str(pathlib.Path("/shop") / name),
        os.path.normpath(f"/shop/x/../{name}"),
    ):
        assert references.file_of(path) == f"/shop/{addresses.file(ADDRESS)}"
        assert references.label(path).startswith(ADDRESS)
        assert references.label(path).endswith(
            "box (1, 2, 3, 4)" if box else "top"
        )


def test_other_names_have_no_address():
    for name in ("a.jpg", "", "a#from=b.jpg", "/x/fetched/00"):
        assert addresses.split(name) == (name, "")


def test_the_reason_of_a_failure_is_kept(tmp_path):
    path = str(tmp_path / "x")
    assert "data.prepare" in addresses.failure(path)
    (tmp_path / "x.failed").write_text("404\n")
    assert addresses.failure(path) == "it could not be fetched: 404"
