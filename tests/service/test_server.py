"""The application with an index of colored squares."""

import asyncio
import base64
import errno
import io
import re
import socket
import threading

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from mixer_jax.data.images import decoding
from mixer_jax.retrieval import index
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.runtime.tabular import addresses
from mixer_jax.service import server
from mixer_jax.service.http import connections, pictures, uploads
from tests import broken_files


@pytest.fixture
def made(color_run, colors):
    path = colors[0] / "colors.csv"
    return index.build(color_run, path, make_mesh(), batch_size=8)[0]


@pytest.fixture
def searcher(made):
    mesh = make_mesh()
    return server.Searcher(made, index.load_model(made, mesh), mesh)


@pytest.fixture
def client(searcher):
    with TestClient(server.make_app(searcher, max_megabytes=0.01)) as client:
        yield client


def _picture(color, kind="png"):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), color).save(file, kind)
    return file.getvalue()


def test_results_do_not_depend_on_the_devices(made, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    trained = index.load_model(made, mesh)
    found = server.Searcher(made, trained, mesh).search(_picture("red"), 100)
    rows, cosines = zip(*found, strict=True)
    assert set(made.documents.category_id[list(rows[:2])]) == {"red"}
    assert sorted(rows) == list(range(12))
    assert list(cosines) == sorted(cosines, reverse=True)
    expected = made.embeddings @ np.array([1, -1, -1]) / np.sqrt(3)
    np.testing.assert_allclose(cosines, expected[list(rows)], atol=1e-5)


def test_a_search_returns_the_nearest_documents(client):
    response = client.post("/search?k=3", content=_picture("blue"))
    assert response.status_code == 200
    found = response.json()
    assert found["milliseconds"] > 0
    assert len(found["results"]) == 3
    first = found["results"][0]
    assert set(first) == {
        "sample_id",
        "text",
        "category_id",
        "score",
        "image",
    }
    assert (first["category_id"], first["text"]) == ("blue", "blue paint")
    assert first["score"] > 0.9
    shown = client.get(first["image"])
    assert shown.headers["content-type"] == "image/png"
    assert decoding.decode(shown.content, 8)[..., 2].mean() > 200


def test_common_picture_formats_are_accepted(client):
    for kind in ("jpeg", "webp", "gif", "bmp"):
        response = client.post("/search", content=_picture("blue", kind))
        assert len(response.json()["results"]) == server.DEFAULT_K


def test_bad_requests_get_an_error_message(client):
    red = _picture("red")
    for query, content, status, message in (
        ("", b"", 400, "empty"),
        ("", b"no picture", 400, "plain text; a PNG, JPEG"),
        ("", red[:-30], 400, "a PNG picture that cannot be read: it is trunca"),
        ("", b"%!PS-Adobe-3.0 EPSF-3.0\n", 400, "a PostScript file; a PNG"),
        ("", b"\0\0\0\x18ftypheic\0\0", 400, "a HEIC (HEIF) picture; a PNG"),
        ("", _picture("red", "tiff"), 400, "a TIFF picture; a PNG"),
        ("", base64.b64encode(red), 400, "base64 text instead of the PNG"),
        ("", b"<!doctype html><p>", 400, "an HTML page; a PNG"),
        ("", bytes(10_001), 413, "larger than 0.01 megabytes"),
        ("?k=0", red, 400, "from 1 to 100"),
        ("?k=101", red, 400, "from 1 to 100"),
        ("?k=all", red, 400, "'all'"),
        ("?k=1_0", red, 400, "'1_0'"),
        ("?k=%D9%A3", red, 400, "from 1 to 100"),
        ("?k=", red, 400, "k is ''"),
        ("?k=1&k=5", red, 400, "more than one k"),
        ("?k=5&k=5", red, 400, "more than one k"),
        ("?K=5", red, 400, "parameter 'K'; only k is supported"),
        ("?k=5&limit=5", red, 400, "parameter 'limit'"),
        ("?k=" + "9" * 5000, red, 400, "from 1 to 100"),
    ):
        response = client.post("/search" + query, content=content)
        assert response.status_code == status
        assert message in response.json()["error"]


@pytest.mark.parametrize("charset", ["undefined", "punycode", "none-such"])
def test_a_form_with_an_odd_charset_does_not_crash_the_server(client, charset):
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"'
    body = head + b"\r\n\r\n" + _picture("red") + b"\r\n--x--\r\n"
    response = client.post(
        "/search", content=body, headers={"content-type": kind}
    )
    assert response.status_code in (200, 400)
    assert {"results", "error"} & set(response.json())


@pytest.mark.parametrize("row", ["9" * 5000, "-1", "1_0", "%D9%A3", "x", "99"])
def test_an_unknown_document_gets_an_error_message(client, row):
    response = client.get(f"/image/{row}")
    assert response.status_code == 404
    assert "There is no document" in response.json()["error"]
    assert len(response.text) < 100


def test_a_form_with_a_file_is_accepted(client):
    files = {"file": ('it\'s a "good" café.png', _picture("blue"))}
    response = client.post("/search?k=2", files=files)
    assert response.status_code == 200
    first = response.json()["results"][0]
    assert first["category_id"] == "blue"
    plain = client.post("/search?k=2", content=_picture("blue"))
    assert response.json()["results"] == plain.json()["results"]
    response = client.post("/search", files=files, data={"k": "3"})
    assert len(response.json()["results"]) == 3
    # The content type that curl sends with --data-binary.
    response = client.post(
        "/search",
        content=_picture("blue"),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.json()["results"][0] == first


def test_invalid_forms_get_an_error_message(client):
    red = _picture("red")
    broken = {"content-type": "multipart/form-data"}
    for arguments, status, message in (
        ({"files": {"file": ("a.pdf", b"%PDF-1.7")}}, 400, "a PDF document"),
        ({"files": {"file": ("a.png", b"")}}, 400, "empty"),
        ({"files": [("a", ("a", red)), ("b", ("b", red))]}, 400, "many files"),
        ({"files": {"file": (None, "text")}}, 400, "no complete file"),
        ({"files": {"a": ("a", bytes(11_000))}}, 413, "0.01 megabytes"),
        ({"files": {"a": (None, bytes(5000))}}, 400, "maximum size"),
        ({"content": red, "headers": broken}, 400, "boundary"),
        ({"files": {"a": ("a", red)}, "data": {"k": "no"}}, 400, "'no'"),
        ({"files": {"a": ("a", red)}, "data": {"k": ""}}, 400, "k is ''"),
        ({"files": {"a": ("a", red)}, "data": {"k": [1, 5]}}, 400, "than one"),
        (
            {"files": {"a": ("a", red)}, "data": {"k": 1}, "params": {"k": 1}},
            400,
            "Both the URL and the form",
        ),
    ):
        response = client.post("/search", **arguments)
        assert (response.status_code, message in response.json()["error"]) == (
            status,
            True,
        ), response.json()


BOUNDARY = b"--x"
PARTS = st.sampled_from(
    [
        BOUNDARY,
        BOUNDARY + b"--",
        b"\r\n",
        b"\r\n\r\n",
        b'Content-Disposition: form-data; name="file"; filename="a.png"',
        b'Content-Disposition: form-data; name="k"',
        b"Content-Disposition: form-data",
        b"Content-Type: image/png",
        b"Content-Transfer-Encoding: base64",
        b"5",
        _picture("red"),
    ]
)
HEADERS = st.sampled_from(
    ["multipart/form-data; boundary=x", "multipart/form-data; boundary="]
    + ["multipart/form-data; boundary=x; charset=utf-16", "MULTIPART/FORM-DATA"]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.one_of(
        st.lists(st.one_of(PARTS, st.binary(max_size=9))).map(b"".join),
        st.lists(PARTS, max_size=6).map(b"\r\n".join),
    ),
    header=HEADERS,
    length=st.sampled_from(["", "1", "x", "-1", "²"]),
)
def test_random_forms_are_accepted_or_rejected(client, body, header, length):
    headers = {"content-type": header}
    if length:
        headers["content-length"] = length.encode()
    response = client.post("/search", content=body, headers=headers)
    assert response.status_code in (200, 400, 413)
    assert ("results" if response.is_success else "error") in response.json()


def test_uploads_in_memory_are_limited(searcher, monkeypatch):
    readers = []

    class Reader(uploads.Reader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            readers.append(self)

    monkeypatch.setattr(uploads, "Reader", Reader)
    with TestClient(server.make_app(searcher)) as client:
        for content in (_picture("red"), b"", b"text"):
            client.post("/search", content=content)
        assert readers[0]._held == 0
        monkeypatch.setattr(uploads, "_MAX_UPLOADS", 0)
        response = client.post("/search", content=_picture("red"))
        assert (response.status_code, response.headers["retry-after"]) == (
            503,
            "1",
        )
        assert "try again" in response.json()["error"]
        assert readers[0]._held == 0


def test_the_pixel_limit_is_checked_before_decoding(searcher):
    bomb = broken_files.png_header(14_000, 14_000)
    bomb += broken_files.png_chunk(b"IDAT", b"")
    with TestClient(server.make_app(searcher)) as client:
        response = client.post("/search", content=bomb)
        assert response.status_code == 400
        message = response.json()["error"]
        assert "a PNG picture, but it has 14000 x 14000 pixels" in message
        assert "50 megapixels (--max-megapixels)" in message
        # Pictures from cameras and screens are accepted.
        for kind, size in (("jpeg", (8000, 6000)), ("png", (6000, 4000))):
            file = io.BytesIO()
            Image.new("RGB", size, "blue").save(file, kind)
            response = client.post("/search?k=1", content=file.getvalue())
            assert response.json()["results"][0]["category_id"] == "blue"


@pytest.mark.parametrize("prefix", ["", "/shop", "/a/b c"])
def test_a_proxy_prefix_changes_nothing(searcher, prefix):
    app = server.make_app(searcher)
    if prefix:
        app = Starlette(routes=[Mount(prefix, app)])
    with TestClient(app) as client:
        page = client.get(f"{prefix}/")
        for reference in re.findall(
            r'(?:src|href|action)="([^"]*)"', page.text
        ):
            assert reference.startswith("data:")
        assert "${HERE}search" in page.text
        found = client.post(f"{prefix}/search", content=_picture("blue"))
        image = found.json()["results"][0]["image"]
        assert "//" not in image
        for base in (found.url, page.url):
            shown = client.get(base.join(image))
            assert shown.headers["content-type"] == "image/png"
        # The page may be requested without a trailing slash.
        if prefix:
            assert client.get(prefix).url.path == page.url.path
        response = client.get(f"{prefix}/search/", follow_redirects=False)
        assert response.status_code == 404


def test_an_upload_of_undeclared_size_is_limited(client):
    chunks = (bytes(1000) for _ in range(20))
    response = client.post("/search", content=chunks)
    assert response.status_code == 413


def test_documents_without_a_picture_get_an_error_message(searcher, made):
    made.documents.loc[0, "image"] = ""
    made.documents.loc[1, "image"] = "gone.png"
    with TestClient(server.make_app(searcher)) as client:
        for row, message in (
            (0, "has no picture"),
            (1, "gone.png of document 1 is missing in"),
            (1, "--images=FOLDER"),
            (12, "no document 12"),
        ):
            response = client.get(f"/image/{row}")
            assert response.status_code == 404
            assert message in response.json()["error"]
        response = client.post("/search", content=_picture("red"))
        shown = {r["sample_id"]: r["image"] for r in response.json()["results"]}
        assert shown[made.documents.sample_id[0]] is None


def test_page_health_and_unknown_urls(client, made):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "</html>" in page.text
    assert "12 documents" in page.text
    # The page loads nothing from other hosts.
    assert "://" not in page.text
    assert client.get("/health").json() == {
        "documents": 12,
        "workdir": str(made.workdir),
        "step": 4,
    }
    assert "nothing at this URL; POST" in client.get("/nothing").json()["error"]
    response = client.get("/search")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "POST a picture to search" in response.json()["error"]


def test_searches_do_not_block_other_requests(searcher, client):
    started = []

    def ask():
        started.append(client.post("/search", content=_picture("red")))

    with searcher._lock:
        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        assert client.get("/health").status_code == 200
    for thread in asking:
        thread.join()
    assert [response.status_code for response in started] == [200] * 3


def test_a_bug_gets_an_error_message(searcher, monkeypatch):
    monkeypatch.setattr(searcher, "search", lambda *_: 1 / 0)
    app = server.make_app(searcher)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post("/search", content=b"x")
    assert response.status_code == 500
    assert "failed" in response.json()["error"]


def test_an_invalid_limit_raises_an_error():
    for megabytes in (0, -1, float("inf"), float("nan")):
        with pytest.raises(UserError, match="at most 1000"):
            server.make_app(None, megabytes)


def test_an_unavailable_port_raises_an_error():
    with server.listen("127.0.0.1", 0) as listener:
        url = server.address(listener)
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        with pytest.raises(UserError, match="in use"):
            server.listen("127.0.0.1", port)
    with pytest.raises(UserError, match="from 0 to 65535"):
        server.listen("127.0.0.1", 70000)


def test_an_unknown_host_raises_an_error(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UserError, match=r"on nowhere .*choose one with --host"):
        server.listen("nowhere", 0)
    with pytest.raises(UserError, match="on '' cannot"):
        server.listen("", 0)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("_IDLE_TIMEOUT", "stalled for 0.01"),
        ("_TOTAL_TIMEOUT", "more than 0.01"),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_a_stalled_upload_is_stopped(form, limit, message, monkeypatch):
    monkeypatch.setattr(uploads, limit, 0.01)
    kind = b"multipart/form-data; boundary=x" if form else b"image/png"
    scope = {"type": "http", "headers": [(b"content-type", kind)]}
    messages = iter([{"type": "http.request", "body": b"", "more_body": True}])

    async def receive():
        return next(messages, None) or await asyncio.Event().wait()

    async def read():
        async with reader.read(Request(scope, receive)):
            pass

    reader = uploads.Reader(1)
    with pytest.raises(HTTPException, match=message) as caught:
        asyncio.run(read())
    assert caught.value.status_code == 408
    assert reader._held == 0


def test_an_upload_during_shutdown_gets_a_response(
    searcher, monkeypatch, caplog
):
    monkeypatch.setattr(server, "_GRACE", 0.1)
    servers = []
    make = connections.Server
    monkeypatch.setattr(
        connections,
        "Server",
        lambda config: servers.append(make(config)) or servers[0],
    )
    with server.listen("127.0.0.1", 0) as listener:
        app = server.make_app(searcher)
        thread = threading.Thread(target=server.run, args=(app, listener))
        thread.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(
                b"POST /search HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                b"Content-Length: 9\r\n\r\n"
            )
            assert b"100 Continue" in client.recv(1000)  # it is being read
            servers[0].should_exit = True
            with client.makefile("rb") as file:
                response = file.read()
        thread.join()
    assert b" 503 " in response.splitlines()[0]
    assert b"The server is stopping." in response
    assert "Traceback" not in caplog.text


def test_repeated_slashes_are_collapsed(client):
    found = client.post("/search?k=3", content=_picture("blue")).json()
    again = client.post(
        "http://testserver//search?k=3", content=_picture("blue")
    )
    assert again.json()["results"] == found["results"]
    for url, kind in (("//", "text/html"), ("//image//0", "image/png")):
        response = client.get(f"http://testserver{url}")
        assert response.headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    "name",
    [
        b"filename*=utf-8''caf%C3%A9.png",
        b"filename=\"a\"; filename*=utf-8''caf%C3%A9.png",
        b"filename*=utf-8''caf%C3%A9.png; filename=\"a\"",
    ],
)
def test_a_file_with_a_non_ascii_name_is_accepted(client, name):
    body = b"--x\r\nContent-Disposition: form-data; name=file; " + name
    body += b"\r\n\r\n" + _picture("blue") + b"\r\n--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/search", content=body, headers=kind)
    assert response.json()["results"][0]["category_id"] == "blue"


BAD_REQUESTS = [
    b"no HTTP\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
    b"Upgrade: websocket\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 5\r\n\r\nhello",
]


def test_bad_requests_log_nothing(searcher, caplog, monkeypatch):
    servers = []
    make = connections.Server
    monkeypatch.setattr(
        connections,
        "Server",
        lambda config: servers.append(make(config)) or servers[0],
    )
    with server.listen("127.0.0.1", 0) as listener:
        app = server.make_app(searcher)
        thread = threading.Thread(target=server.run, args=(app, listener))
        thread.start()
        for request in BAD_REQUESTS:
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(request)
                with client.makefile("rb") as file:
                    response = file.read()
            assert response.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))
        servers[0].should_exit = True
        thread.join()
    assert b"send one file, as curl" in response
    assert not [r for r in caplog.records if r.name.startswith(("uv", "pyth"))]


def test_only_pictures_are_served(searcher, made):
    made.documents.loc[:3, "image"] = ["notes", "page.png", "a.svg", "bare"]
    (made.images / "notes").write_text("private")
    (made.images / "page.png").write_text("<html><script></script></html>")
    (made.images / "a.svg").write_text("<svg><script></script></svg>")
    (made.images / "bare").write_bytes(_picture("red", "webp"))
    with TestClient(server.make_app(searcher)) as client:
        for row in range(3):
            response = client.get(f"/image/{row}")
            assert response.status_code == 404
            assert "not a picture" in response.json()["error"]
        shown = client.get("/image/3")
        assert shown.headers["content-type"] == "image/webp"


def test_no_address_is_fetched(searcher, made, monkeypatch):
    connected = []
    monkeypatch.setattr(
        socket.socket, "connect", lambda _, place: connected.append(place)
    )
    address = "https://127.0.0.1:9/a.png"
    (name,) = addresses.localize(pd.Series([address]))
    made.documents.loc[0, "image"] = name
    with TestClient(server.make_app(searcher)) as client:
        for url in ("/search", f"/search?url={address}&image={address}"):
            for body in (
                address.encode(),
                b"",
                b'{"url": "%s"}' % url.encode(),
            ):
                assert client.post(url, content=body).status_code == 400
        files = {"file": (address, address.encode())}
        assert client.post("/search", files=files).status_code == 400
        response = client.get("/image/0")
        assert response.status_code == 404
        assert f"{address} of document 0 is missing" in response.text
    assert not connected


def test_an_unreadable_picture_gets_an_error_message(
    searcher, made, monkeypatch
):
    made.documents.loc[0, "image"] = "a" * 300  # too long for any file system
    images = made.images / made.documents.loc[1, "image"]
    opened = open

    def refuse(path, *arguments):
        if path == images:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(pictures, "open", refuse, raising=False)
    with TestClient(server.make_app(searcher)) as client:
        for row, message in ((0, "name too long"), (1, "Permission denied")):
            response = client.get(f"/image/{row}")
            assert response.status_code == 500
            assert f"of document {row} cannot be read" in response.text
            assert message in response.json()["error"]
        assert client.get("/image/2").status_code == 200
