"""Options of an index in Milvus."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import options

GIVEN = {"storage": "f32"}


def test_valid_options_are_accepted():
    options.check(GIVEN, is_lite=True)
    options.check(GIVEN | {"index_kind": "DISKANN"}, is_lite=False)
    whole = options.complete(GIVEN | {"index_kind": "FLAT"})
    assert whole == GIVEN | {"index_kind": "FLAT", "consistency": "Strong"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"index_kind": "HNWS"}, "'HNWS'; did you mean 'HNSW'"),
        ({"index_kind": "DISKANN"}, "Lite has no DISKANN index; choose HNSW"),
        ({"consistency": "weak"}, "must be one of Strong, Session"),
        ({"storage": "int8"}, "cannot be stored as int8 in Milvus"),
    ],
)
def test_invalid_options_are_rejected(given, message):
    with pytest.raises(UserError, match=message):
        options.check(GIVEN | given, is_lite=True)


def test_a_search_keeps_more_candidates_than_it_returns():
    for kind, name in (("HNSW", "ef"), ("DISKANN", "search_list")):
        for limit in (1, 16_384):
            found = options.search({"index_kind": kind}, limit)["params"]
            assert limit <= found[name] <= 32_768
    assert options.search({"index_kind": "FLAT"}, 5) == {"params": {}}
    for kind in options.INDEX_KINDS:
        assert options.index({"index_kind": kind})["metric_type"] == "COSINE"
