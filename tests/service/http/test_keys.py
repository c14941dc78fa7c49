"""API keys."""

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http import keys
from mixer_jax.service.http.keys import Keys

READ, WRITE = b"the key of readers", b"the key of writers"


def request(**headers):
    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    return Request({"type": "http", "headers": raw})


def status(check, sent):
    try:
        check(sent)
    except HTTPException as error:
        return error.status_code
    return 200


def test_keys_are_read_from_files_and_variables(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef\n\nfedcba9876543210\n")
    monkeypatch.setenv("KEY", "0123456789abcdef")
    first = keys.load(str(tmp_path / "key"), "--write-key")
    assert first == (b"0123456789abcdef", b"fedcba9876543210")
    assert keys.load("env:KEY", "--write-key") == first[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "has no key"), (b"short", "too short")]
    + [("ä".encode() * 20, "not ASCII"), (b"\xff" * 20, "not UTF-8")],
)
def test_missing_and_bad_keys_are_reported(tmp_path, content, message):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match=f"--read-key.*{message}") as caught:
        keys.load(str(tmp_path / "key"), "--read-key")
    assert "short" not in str(caught.value).replace("too short", "")
    with pytest.raises(UserError, match="variable NO_SUCH_KEY has no key"):
        keys.load("env:NO_SUCH_KEY", "--read-key")


@pytest.mark.parametrize(
    ("given", "headers", "read", "write"),
    [
        (Keys(), {}, 200, 403),
        (Keys(), {"x-api-key": "anything"}, 200, 403),
        (Keys((), [WRITE]), {}, 200, 401),
        (Keys((), [WRITE]), {"x-api-key": WRITE.decode()}, 200, 200),
        (Keys([READ], [WRITE]), {}, 401, 401),
        (Keys([READ], [WRITE]), {"x-api-key": READ.decode()}, 200, 401),
        (Keys([READ], [WRITE]), {"x-api-key": WRITE.decode()}, 200, 200),
        (Keys([READ]), {"authorization": f"bearer {READ.decode()}"}, 200, 403),
        (Keys([READ]), {"authorization": f"Basic {READ.decode()}"}, 401, 403),
        (Keys([READ]), {"authorization": "Bearer "}, 401, 403),
        (Keys([READ]), {"authorization": "Bearer \xe4"}, 401, 403),
        (Keys([READ]), {"x-api-key": READ.decode()[:-1]}, 401, 403),
    ],
)
def test_who_may_read_and_write(given, headers, read, write):
    sent = request(**headers)
    assert status(given.require_read, sent) == read
    assert status(given.require_write, sent) == write
