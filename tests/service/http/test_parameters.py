import pytest
from starlette.exceptions import HTTPException

from mixer_jax.service.http import parameters


def refused(message, function, *given):
    with pytest.raises(HTTPException, match=message) as caught:
        function(*given)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "not valid UTF-8"),
        (b'{"text": ', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_other_content_than_a_json_object_is_refused(content, message):
    refused(message, parameters.read_json, content, "The body")


def test_json_is_read():
    body = '{"text": "größe", "k": 3}'.encode()
    assert parameters.read_json(body, "The body") == {"text": "größe", "k": 3}


def test_texts_of_a_url_become_parameters():
    found = parameters.from_texts([("k", "7"), ("text", "shoe")], "The URL")
    assert found == {"k": 7, "text": "shoe"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("kk", "7")], "did you mean 'k'"),
        ([("k", "7"), ("k", "8")], "more than one k"),
        ([("image", "aGk=")], "not supported"),
        ([("k", "7.5")], "k is '7.5'; it must be a whole number"),
    ],
)
def test_wrong_texts_of_a_url_are_refused(pairs, message):
    refused(message, parameters.from_texts, pairs, "The URL")


def test_a_search_needs_something_to_search_for():
    search = parameters.check({"text": "shoe", "k": 5})
    assert (search.text, search.options.k) == ("shoe", 5)
    refused("The request is empty", parameters.check, {})
    refused("k is 0; it must", parameters.check, {"text": "shoe", "k": 0})
    refused("unknown key 'txt'", parameters.check, {"txt": "shoe"})
