"""The application, serving an index of colored squares."""

import asyncio
import base64
import errno
import io
import re
import socket
import threading
import time
import types
import weakref

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

from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.runtime.tabular import addresses
from mixer_jax.service import opening, server
from mixer_jax.service.batches import collecting
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http import connections, context, pictures, uploads
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.parameters import DEFAULT_K
from mixer_jax.service.http.settings import DEFAULTS
from tests import broken_files
from tests.service.batches.test_generations import rebuild
from tests.service.conftest import PIXELS, draw, fill, opener


def rename(generations, number, name):
    """Changes the picture path of a vector; returns the item's ID."""
    store = generations.current.index.store
    with store._database.writing() as connection:
        connection.execute(
            "UPDATE vectors SET image = ? WHERE number = ?", [name, number]
        )
    return shown(generations, number)[0]


def shown(generations, number):
    """Returns the item and the path of the picture of a vector."""
    store = generations.current.index.store
    with store._database.reading() as connection:
        return connection.execute(
            "SELECT id, image FROM vectors JOIN items USING (item) "
            "WHERE number = ?",
            [number],
        ).fetchone()


def test_results_do_not_depend_on_the_devices(place, color_net, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    model = Model(color_net._trained, mesh)

    def open_(_):
        return opening.open_with(place, model, mesh=mesh)

    with Generations(open_, PIXELS) as made:
        with TestClient(server.make_app(made)) as client:
            answer = client.post("/v1/search?k=100", content=draw("red"))
        found = answer.json()["results"]
        ids = [one["id"] for one in found]
        stored = made.current.index.store.get(ids)
    assert {one["category"] for one in found[:2]} == {"red"}
    assert len(found) == 12
    embeddings = np.stack([item.vectors[0].embedding for item in stored])
    expected = embeddings @ np.array([1, -1, -1]) / np.sqrt(3)
    cosines = [one["score"] for one in found]
    assert cosines == sorted(cosines, reverse=True)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_common_picture_formats_are_accepted(client):
    for kind in ("jpeg", "webp", "gif", "bmp"):
        response = client.post("/v1/search", content=draw("blue", kind))
        assert len(response.json()["results"]) == DEFAULT_K


def test_bad_requests_get_an_error_message(client):
    red = draw("red")
    for query, content, status, message in (
        ("", b"", 400, "empty"),
        ("", b"no picture", 400, "plain text; a PNG, JPEG"),
        ("", red[:-30], 400, "a PNG picture that cannot be read: it is trunca"),
        ("", b"%!PS-Adobe-3.0 EPSF-3.0\n", 400, "a PostScript file; a PNG"),
        ("", b"\0\0\0\x18ftypheic\0\0", 400, "a HEIC (HEIF) picture; a PNG"),
        ("", draw("red", "tiff"), 400, "a TIFF picture; a PNG"),
        ("", base64.b64encode(red), 400, "base64 text instead of the PNG"),
        ("", b"<!doctype html><p>", 400, "an HTML page; a PNG"),
        ("", bytes(10_001), 413, "larger than 0.01 megabytes"),
        ("?k=0", red, 400, "from 1 to 1000"),
        ("?k=1001", red, 400, "from 1 to 1000"),
        ("?k=all", red, 400, "'all'"),
        ("?k=1_0", red, 400, "'1_0'"),
        ("?k=%D9%A3", red, 400, "from 1 to 1000"),
        ("?k=", red, 400, "k is ''"),
        ("?k=1&k=5", red, 400, "more than one k"),
        ("?k=5&k=5", red, 400, "more than one k"),
        (
            "?K=5",
            red,
            400,
            "parameter 'K', which is not supported",
        ),
        ("?k=5&limit=5", red, 400, "parameter 'limit'"),
        ("?k=" + "9" * 5000, red, 400, "from 1 to 1000"),
    ):
        response = client.post("/v1/search" + query, content=content)
        assert response.status_code == status
        assert message in response.json()["error"]


@pytest.mark.parametrize("charset", ["undefined", "punycode", "none-such"])
def test_a_form_with_an_odd_charset_does_not_crash_the_server(client, charset):
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"'
    body = head + b"\r\n\r\n" + draw("red") + b"\r\n--x--\r\n"
    response = client.post(
        "/v1/search", content=body, headers={"content-type": kind}
    )
    assert response.status_code in (200, 400)
    assert {"results", "error"} & set(response.json())


def test_a_form_with_a_file_is_accepted(client):
    files = {"file": ('it\'s a "good" café.png', draw("blue"))}
    response = client.post("/v1/search?k=2", files=files)
    assert response.status_code == 200
    first = response.json()["results"][0]
    assert first["category"] == "blue"
    plain = client.post("/v1/search?k=2", content=draw("blue"))
    assert response.json()["results"] == plain.json()["results"]
    response = client.post("/v1/search", files=files, data={"k": "3"})
    assert len(response.json()["results"]) == 3
    # curl sends this content type with --data-binary.
    response = client.post(
        "/v1/search",
        content=draw("blue"),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.json()["results"][0] == first


def test_invalid_forms_get_an_error_message(client):
    red = draw("red")
    broken = {"content-type": "multipart/form-data"}
    for arguments, status, message in (
        ({"files": {"file": ("a.pdf", b"%PDF-1.7")}}, 400, "a PDF document"),
        ({"files": {"file": ("a.png", b"")}}, 400, "empty"),
        ({"files": [("a", ("a", red)), ("b", ("b", red))]}, 400, "many files"),
        ({"files": {"file": (None, "text")}}, 400, "send a picture as a file"),
        ({"files": {"a": ("a", bytes(11_000))}}, 413, "0.01 megabytes"),
        ({"content": red, "headers": broken}, 400, "boundary"),
        ({"files": {"a": ("a", red)}, "data": {"k": "no"}}, 400, "'no'"),
        ({"files": {"a": ("a", red)}, "data": {"k": ""}}, 400, "k is ''"),
        ({"files": {"a": ("a", red)}, "data": {"k": [1, 5]}}, 400, "than one"),
        (
            {"files": {"a": ("a", red)}, "data": {"k": 1}, "params": {"k": 1}},
            400,
            "Both the URL and the body have",
        ),
    ):
        response = client.post("/v1/search", **arguments)
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
        draw("red"),
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
    response = client.post("/v1/search", content=body, headers=headers)
    assert response.status_code in (200, 400, 413)
    assert ("results" if response.is_success else "error") in response.json()


def test_uploads_in_memory_are_limited(shared, monkeypatch):
    readers = []

    class Reader(uploads.Reader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            readers.append(self)

    monkeypatch.setattr(context, "Reader", Reader)
    with TestClient(server.make_app(shared)) as client:
        for content in (draw("red"), b"", b"text"):
            client.post("/v1/search", content=content)
        assert readers[0]._held == 0
        monkeypatch.setattr(uploads, "_MAX_UPLOADS", 0)
        response = client.post("/v1/search", content=draw("red"))
        assert (response.status_code, response.headers["retry-after"]) == (
            503,
            "1",
        )
        assert "try again" in response.json()["error"]
        assert readers[0]._held == 0


def test_the_pixel_limit_is_checked_before_decoding(shared):
    bomb = broken_files.png_header(14_000, 14_000)
    bomb += broken_files.png_chunk(b"IDAT", b"")
    with TestClient(server.make_app(shared)) as client:
        response = client.post("/v1/search", content=bomb)
        assert response.status_code == 400
        message = response.json()["error"]
        assert "a PNG picture, but it has 14000 x 14000 pixels" in message
        assert "50 megapixels (--max-megapixels)" in message
        # Pictures from cameras and screens are accepted.
        for kind, size in (("jpeg", (8000, 6000)), ("png", (6000, 4000))):
            file = io.BytesIO()
            Image.new("RGB", size, "blue").save(file, kind)
            response = client.post("/v1/search?k=1", content=file.getvalue())
            assert response.json()["results"][0]["category"] == "blue"


@pytest.mark.parametrize("prefix", ["", "/shop", "/a/b c"])
def test_a_proxy_prefix_changes_nothing(shared, prefix):
    app = server.make_app(shared)
    if prefix:
        app = Starlette(routes=[Mount(prefix, app)])
    with TestClient(app) as client:
        page = client.get(f"{prefix}/")
        for reference in re.findall(
            r'(?:src|href|action)="([^"]*)"', page.text
        ):
            assert reference.startswith(("data:", "#"))
        assert "${HERE}v1/" in page.text
        found = client.post(f"{prefix}/v1/search", content=draw("blue"))
        image = found.json()["results"][0]["image"]
        assert "//" not in image
        shown = client.get(found.url.join(image))  # relative to /v1/
        assert shown.headers["content-type"] == "image/png"
        # The page may be requested without a trailing slash.
        if prefix:
            assert client.get(prefix).url.path == page.url.path
        response = client.get(f"{prefix}/v1/search/", follow_redirects=False)
        assert response.status_code == 404


def test_an_upload_of_undeclared_size_is_limited(client):
    chunks = (bytes(1000) for _ in range(20))
    response = client.post("/v1/search", content=chunks)
    assert response.status_code == 413


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


def test_an_upload_during_shutdown_gets_a_response(shared, monkeypatch, caplog):
    monkeypatch.setattr(server, "_GRACE", 0.1)
    servers = []
    make = connections.Server
    monkeypatch.setattr(
        connections,
        "Server",
        lambda config: servers.append(make(config)) or servers[0],
    )
    with server.listen("127.0.0.1", 0) as listener:
        app = server.make_app(shared)
        thread = threading.Thread(target=server.run, args=(app, listener))
        thread.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: x\r\n"
                b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
            )
            assert b"100 Continue" in client.recv(1000)  # reading the body
            servers[0].should_exit = True
            with client.makefile("rb") as file:
                response = file.read()
        thread.join()
    assert b" 503 " in response.splitlines()[0]
    assert b"The server is stopping." in response
    assert "Traceback" not in caplog.text


def test_repeated_slashes_are_collapsed(client):
    found = client.post("/v1/search?k=3", content=draw("blue")).json()
    again = client.post(
        "http://testserver//v1//search?k=3", content=draw("blue")
    )
    assert again.json()["results"] == found["results"]
    for url, kind in (
        ("//", "text/html"),
        ("//v1//items//red.png//image", "image/png"),
    ):
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
    body += b"\r\n\r\n" + draw("blue") + b"\r\n--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/search", content=body, headers=kind)
    assert response.json()["results"][0]["category"] == "blue"


BAD_REQUESTS = [
    b"no HTTP\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
    b"Upgrade: websocket\r\n\r\n",
    b"POST /v1/search HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 5\r\n\r\nhello",
]


def test_bad_requests_log_nothing(shared, caplog, monkeypatch):
    servers = []
    make = connections.Server
    monkeypatch.setattr(
        connections,
        "Server",
        lambda config: servers.append(make(config)) or servers[0],
    )
    with server.listen("127.0.0.1", 0) as listener:
        app = server.make_app(shared)
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


def test_page_health_and_unknown_urls(client, shared):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "</html>" in page.text
    assert "12 items" in page.text
    # The page loads nothing from other hosts.
    assert "://" not in page.text
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {
        "status": "ready",
        "items": 12,
        "fingerprint": shared.current.index.store.fingerprint,
        "step": 4,
    }
    assert "nothing at this URL; POST" in client.get("/nothing").json()["error"]
    response = client.get("/v1/search")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "does not support this method" in response.json()["error"]


def test_a_bug_gets_an_error_message(shared, monkeypatch):
    monkeypatch.setattr(shared.current.encoder, "decode", lambda *_: 1 / 0)
    app = server.make_app(shared)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post("/v1/search", content=b"x")
    assert response.status_code == 500
    assert "failed" in response.json()["error"]


def test_items_without_a_picture_get_an_error_message(own):
    empty = rename(own, 1, "")
    gone = rename(own, 2, "gone.png")
    outside = rename(own, 3, "../gone.png")
    with TestClient(server.make_app(own)) as client:
        for id, message in (
            (empty, f"No picture of item '{empty}' is stored"),
            (gone, f"gone.png of item '{gone}' is missing"),
            (gone, "--images=FOLDER"),
            (outside, "is missing"),
        ):
            response = client.get(f"/v1/items/{id}/image")
            assert response.status_code == 404
            assert message in response.json()["error"]
        response = client.post("/v1/search", content=draw("red"))
        shown = {one["id"]: one["image"] for one in response.json()["results"]}
        assert shown[empty] is None
        assert list(shown.values()).count(None) == 1


def test_only_pictures_are_served(own):
    names = ["notes", "page.png", "a.svg", "bare"]
    ids = [rename(own, number, name) for number, name in enumerate(names, 1)]
    images = own.current.index.images
    (images / "notes").write_text("private")
    (images / "page.png").write_text("<html><script></script></html>")
    (images / "a.svg").write_text("<svg><script></script></svg>")
    (images / "bare").write_bytes(draw("red", "webp"))
    with TestClient(server.make_app(own)) as client:
        for id in ids[:3]:
            response = client.get(f"/v1/items/{id}/image")
            assert response.status_code == 404
            assert "not a picture" in response.json()["error"]
        shown = client.get(f"/v1/items/{ids[3]}/image")
        assert shown.headers["content-type"] == "image/webp"


def test_no_address_is_fetched(own, monkeypatch):
    connected = []
    monkeypatch.setattr(
        socket.socket, "connect", lambda _, place: connected.append(place)
    )
    address = "https://127.0.0.1:9/a.png"
    (name,) = addresses.localize(pd.Series([address]))
    id = rename(own, 1, name)
    with TestClient(server.make_app(own)) as client:
        for url in ("/v1/search", f"/v1/search?url={address}&image={address}"):
            for body in (
                address.encode(),
                b"",
                b'{"url": "%s"}' % url.encode(),
                b'{"image": "%s"}' % address.encode(),
            ):
                assert client.post(url, content=body).status_code == 400
        files = {"file": (address, address.encode())}
        assert client.post("/v1/search", files=files).status_code == 400
        response = client.get(f"/v1/items/{id}/image")
        assert response.status_code == 404
        assert f"{address} of item '{id}' is missing" in response.text
    assert not connected


def test_an_unreadable_picture_gets_an_error_message(own, monkeypatch):
    long = rename(own, 1, "a" * 300)  # too long for any file system
    opened = open
    other, name = shown(own, 2)
    secret = own.current.index.images / name

    def refuse(path, *arguments):
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(pictures, "open", refuse, raising=False)
    with TestClient(server.make_app(own)) as client:
        for id, message in (
            (long, "name too long"),
            (other, "Permission denied"),
        ):
            response = client.get(f"/v1/items/{id}/image")
            assert response.status_code == 500
            assert f"of item '{id}' cannot be read" in response.text
            assert message in response.json()["error"]
        good, _ = shown(own, 3)
        assert client.get(f"/v1/items/{good}/image").status_code == 200


def test_origins_of_browsers_are_allowed_by_option(shared):
    origin = "https://shop.example"
    chosen = DEFAULTS._replace(origins=(origin,))
    for settings_, expected in ((chosen, origin), (DEFAULTS, None)):
        with TestClient(server.make_app(shared, settings_)) as client:
            response = client.get("/healthz", headers={"origin": origin})
        allowed = response.headers.get("access-control-allow-origin")
        assert allowed == expected


def test_reading_may_need_a_key(shared):
    keys = Keys(read=(b"read key of shop",), write=(b"write key of shop",))
    settings_ = DEFAULTS._replace(keys=keys)
    with TestClient(server.make_app(shared, settings_)) as client:
        for method, url in (
            ("POST", "/v1/search?id=red.png"),
            ("GET", "/v1/items/red.png"),
            ("GET", "/v1/items/red.png/image"),
            ("GET", "/metrics"),
        ):
            assert client.request(method, url).status_code == 401
            for key in ("read key of shop", "write key of shop"):
                headers = {"X-API-Key": key}
                response = client.request(method, url, headers=headers)
                assert response.status_code == 200
        for url in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert client.get(url).status_code == 200


def test_a_rebuilt_index_replaces_the_served_one(own, place, color_net):
    with TestClient(server.make_app(own)) as client:
        with own.use() as old:
            rebuild(place, color_net)
            assert own.refresh()
            # Running requests finish with the previous index.
            assert old.index.store.count() == 12
        assert client.get("/readyz").json()["items"] == 1
        assert not own.refresh()
        found = client.post("/v1/search", content=draw("red")).json()
        assert [one["id"] for one in found["results"]] == ["only"]


def test_rebuilt_indexes_are_looked_for(
    own, place, color_net, monkeypatch, capsys
):
    looked = threading.Semaphore(0)
    refresh = own.refresh

    def look():
        try:
            return refresh()
        finally:
            looked.release()

    monkeypatch.setattr(server, "_LOOK", 0.01)
    monkeypatch.setattr(own, "refresh", look)
    with TestClient(server.make_app(own)) as client:
        rebuild(place, color_net, fingerprint="another")
        for _ in range(3):
            looked.acquire()
        assert client.get("/readyz").json()["items"] == 12
        rebuild(place, color_net)
        while own.count == 1:
            looked.acquire()
        assert client.get("/readyz").json()["items"] == 1
    warnings = capsys.readouterr().err
    assert warnings.count("the new index is not used") == 1


def test_what_a_switch_replaces_is_collected(
    own, place, color_net, monkeypatch
):
    monkeypatch.setattr(server, "_LOOK", 0.01)
    own.current.itself = own.current  # Only a collection can free a cycle.
    old = weakref.ref(own.current)
    with collecting.frozen(), TestClient(server.make_app(own)):
        rebuild(place, color_net)
        deadline = time.monotonic() + 60
        while old() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert own.count == 2
    assert old() is None


def test_failing_looks_become_rarer(monkeypatch, capsys):
    pauses, fails = [], [True] * 6 + [False, True]

    async def sleep(seconds, *_):
        if seconds:
            pauses.append(seconds)
        if len(pauses) > len(fails):
            raise asyncio.CancelledError

    def refresh():
        if fails[len(pauses) - 1]:
            raise UserError("no model")

    service = types.SimpleNamespace(
        generations=types.SimpleNamespace(refresh=refresh, count=1)
    )
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(server._watch(service))
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 2, 4]
    assert capsys.readouterr().err.count("no model") == 2


def test_writes_of_other_processes_are_found(own, place):
    with TestClient(server.make_app(own)) as client:
        with opening.open_with(place, own.current.encoder.model) as other:
            other.upsert(["new"], images=[draw("black")])
        found = client.post("/v1/search?k=1", content=draw("black")).json()
        assert found["results"][0]["id"] == "new"
        assert "13 items" in client.get("/").text


def test_an_index_in_milvus_is_served(color_net, tmp_path):
    path, root = tmp_path / "index.db", tmp_path / "pictures"
    fill(path, color_net, root)
    chosen = DEFAULTS._replace(keys=Keys(write=(b"k" * 16,)))
    headers = {"X-API-Key": "k" * 16}
    red = {"params": {"where": '{"category": "red"}'}, "content": draw("red")}
    with (
        Generations(opener(path, color_net), PIXELS) as made,
        TestClient(server.make_app(made, chosen), headers=headers) as client,
    ):
        assert client.get("/readyz").json()["items"] == 12
        assert client.get("/").status_code == 200
        first, second = client.post("/v1/search", **red).json()["results"]
        assert first["category"] == second["category"] == "red"
        shown = client.get(f"/v1/{first['image']}")
        assert shown.content == (root / first["id"]).read_bytes()
        assert client.delete(f"/v1/items/{first['id']}").status_code == 200
        answer = client.post("/v1/search", **red).json()
        assert [one["id"] for one in answer["results"]] == [second["id"]]
        assert client.get(f"/v1/{first['image']}").status_code == 404
        new = {"vector": [1, -1, -1], "category": "red"}
        assert client.put("/v1/items/new", json=new).status_code == 200
        assert client.get("/readyz").json()["items"] == 12
        made.current.index.store._rows.name = "missing"
        answer = client.get("/v1/items/new")
        assert answer.status_code == 500
        assert "Milvus Lite failed" in answer.json()["error"]
