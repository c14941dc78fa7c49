"""Reading uploads from requests."""

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mixer_jax.service.http import uploads

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n3\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    b"picture\r\n--x--\r\n"
)
FORM_TYPE = {"content-type": "multipart/form-data; boundary=x"}


def read(reader, chunks, headers=(), during=None):
    """Reads chunks as a request; calls `during` while the upload is held."""
    raw = [(k.encode(), v.encode()) for k, v in dict(headers).items()]
    messages = [
        {"type": "http.request", "body": chunk, "more_body": True}
        for chunk in chunks
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    queue = iter(messages)

    async def receive():
        return next(queue)

    async def run():
        request = Request({"type": "http", "headers": raw}, receive)
        async with reader.read(request) as upload:
            if during is not None:
                during()
            return upload

    return asyncio.run(run())


def test_a_body_is_read_as_the_picture():
    upload = read(uploads.Reader(1), [b"pic", b"ture"])
    assert upload == uploads.Upload(b"picture")


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b" {}", "", True),
        (b"[]", "application/json; charset=utf-8", True),
        (b"picture", "image/png", False),
        (b"", "", False),
    ],
)
def test_json_is_recognized(content, kind, expected):
    upload = read(uploads.Reader(1), [content], {"content-type": kind})
    assert upload == uploads.Upload(content, expected)


@pytest.mark.parametrize("chunks", [[b"--x--\r\n"], [FORM[:-30]]])
def test_an_incomplete_form_has_no_file(chunks):
    assert read(uploads.Reader(1), chunks, FORM_TYPE).content == b""


@pytest.mark.parametrize("size", [1, 7, len(FORM)])
def test_a_form_is_read_as_a_picture_and_k(size):
    chunks = [FORM[i : i + size] for i in range(0, len(FORM), size)]
    upload = read(uploads.Reader(1), chunks, FORM_TYPE)
    assert upload == uploads.Upload(b"picture", fields=(("k", "3"),))


def field(content, charset="utf-8"):
    """Returns the chunks and headers of a form with one text."""
    body = FORM.replace(b"\r\n3\r\n", b"\r\n" + content + b"\r\n", 1)
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    return [body], {"content-type": kind}


def test_a_text_may_have_10_000_characters():
    text = "\N{ROCKET}" * 10_000
    upload = read(uploads.Reader(1), *field(text.encode()))
    assert upload.fields == (("k", text),)
    with pytest.raises(HTTPException, match="maximum size"):
        read(uploads.Reader(1), *field(bytes(70_000)))


@pytest.mark.parametrize(
    ("content", "charset"),
    [(rb"\ud800", "unicode_escape"), (b"+2AA-", "utf-7")],
)
def test_a_text_with_a_lone_surrogate_is_rejected(content, charset):
    with pytest.raises(HTTPException, match="use UTF-8") as caught:
        read(uploads.Reader(1), *field(content, charset))
    assert caught.value.status_code == 400


def test_bytes_count_until_the_context_ends():
    reader, seen = uploads.Reader(1), []
    read(reader, [b"picture"], during=lambda: seen.append(reader._held))
    assert seen == [7]
    assert reader._held == 0


@pytest.mark.parametrize(
    ("chunks", "headers", "status"),
    [
        ([b"x" * 600] * 2, {}, 413),
        ([], {"content-length": "1001"}, 413),
        ([b"no form"], FORM_TYPE, 400),
    ],
)
def test_a_bad_upload_is_rejected_and_released(chunks, headers, status):
    reader = uploads.Reader(0.001)
    with pytest.raises(HTTPException) as caught:
        read(reader, chunks, headers)
    assert caught.value.status_code == status
    assert reader._held == 0
