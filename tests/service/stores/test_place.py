"""Finding an index by its folder or address."""

import subprocess
import sys

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.milvus.place import MilvusPlace
from tests.service.stores.items import PROPERTIES, make


def test_an_index_is_a_folder_or_an_address(tmp_path):
    folder = place.find(tmp_path / "shop")
    assert isinstance(folder, place.LocalPlace)
    assert folder.disk == folder.folder == tmp_path / "shop"
    lite = place.find(tmp_path / "shop.db#shoes")
    assert isinstance(lite, MilvusPlace)
    assert lite.name == f"{tmp_path}/shop.db#shoes"
    assert lite.disk == lite.folder == tmp_path / "shop.db"
    server = place.find("http://127.0.0.1:19530")
    assert isinstance(server, MilvusPlace)
    assert server.disk is None
    with pytest.raises(UserError, match="An index"):
        place.find("gs://bucket/index")


def test_a_folder_with_an_index_is_no_database(tmp_path):
    with place.LocalPlace(tmp_path / "old.db").draft(PROPERTIES) as made:
        made.publish()
    assert isinstance(place.find(tmp_path / "old.db"), place.LocalPlace)


def test_options_of_milvus_are_refused_for_a_folder(tmp_path):
    index = place.find(tmp_path / "index")
    index.check(PROPERTIES)
    with pytest.raises(UserError, match=r"'Strong', but .* is a folder"):
        index.check(PROPERTIES | {"consistency": "Strong"})


def test_pymilvus_is_imported_only_for_milvus(tmp_path):
    make(tmp_path / "index").close()
    code = f"""
import sys
from mixer_jax.service import opening
sys.modules["pymilvus"] = None  # as if it were not installed
with opening.open_index({str(tmp_path / "index")!r}) as index:
    assert len(index) == 0
try:
    opening.open_index("http://127.0.0.1:1")
except opening.UserError as error:
    print(error)
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "An index in Milvus needs the package pymilvus, which is not "
        "installed; run `pip install 'mixer_jax[milvus]'`.\n"
    )
