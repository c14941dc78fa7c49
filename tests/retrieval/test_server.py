"""The application over an index of coloured squares."""

import io
import socket
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mixer_jax.data import images
from mixer_jax.errors import UserError
from mixer_jax.mesh import make_mesh
from mixer_jax.retrieval import index, server


@pytest.fixture
def made(colour_run, colours):
    path = colours[0] / "colours.csv"
    return index.build(colour_run, path, make_mesh(), batch_size=8)[0]


@pytest.fixture
def searcher(made):
    mesh = make_mesh()
    return server.Searcher(made, index.load_model(made, mesh), mesh)


@pytest.fixture
def client(searcher):
    with TestClient(server.make_app(searcher, max_megabytes=0.01)) as client:
        yield client


def _picture(colour, kind="png"):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(file, kind)
    return file.getvalue()


def test_answers_do_not_depend_on_the_devices(made, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    trained = index.load_model(made, mesh)
    found = server.Searcher(made, trained, mesh).search(_picture("red"), 100)
    rows, cosines = zip(*found, strict=True)
    assert set(made.documents.category_id[list(rows[:2])]) == {"red"}
    assert sorted(rows) == list(range(12))
    assert list(cosines) == sorted(cosines, reverse=True)
    expected = made.embeddings @ np.array([1, -1, -1]) / np.sqrt(3)
    np.testing.assert_allclose(cosines, expected[list(rows)], atol=1e-5)


def test_a_picture_is_answered(client):
    answer = client.post("/search?k=3", content=_picture("blue"))
    assert answer.status_code == 200
    found = answer.json()
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
    assert images.decode(shown.content, 8)[..., 2].mean() > 200


def test_every_common_kind_of_picture_is_read(client):
    for kind in ("jpeg", "webp", "gif", "bmp"):
        answer = client.post("/search", content=_picture("blue", kind))
        assert len(answer.json()["results"]) == server.DEFAULT_K


def test_what_is_wrong_is_said(client):
    red = _picture("red")
    for question, content, status, said in (
        ("", b"", 400, "empty"),
        ("", b"no picture", 400, "not a picture"),
        ("", red[:-30], 400, "not a picture"),
        ("", b"%!PS-Adobe-3.0 EPSF-3.0\n", 400, "not a picture"),
        ("", bytes(10_001), 413, "larger than 0.01 megabytes"),
        ("?k=0", red, 400, "from 1 to 100"),
        ("?k=101", red, 400, "from 1 to 100"),
        ("?k=all", red, 400, "'all'"),
    ):
        answer = client.post("/search" + question, content=content)
        assert answer.status_code == status
        assert said in answer.json()["error"]


def test_an_upload_that_hides_its_size_is_cut_off(client):
    chunks = (bytes(1000) for _ in range(20))
    answer = client.post("/search", content=chunks)
    assert answer.status_code == 413


def test_documents_without_a_picture(searcher, made, tmp_path):
    made.documents.loc[0, "image"] = ""
    made.documents.loc[1, "image"] = str(tmp_path / "gone.png")
    with TestClient(server.make_app(searcher)) as client:
        for row, said in (
            (0, "has no picture"),
            (1, "is missing"),
            (12, "no document 12"),
        ):
            answer = client.get(f"/image/{row}")
            assert answer.status_code == 404
            assert said in answer.json()["error"]
        answer = client.post("/search", content=_picture("red"))
        shown = {r["sample_id"]: r["image"] for r in answer.json()["results"]}
        assert shown[made.documents.sample_id[0]] is None


def test_page_and_health(client, made):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "</html>" in page.text
    assert "12 documents" in page.text
    # Nothing is fetched from elsewhere.
    assert "://" not in page.text
    assert client.get("/health").json() == {
        "documents": 12,
        "workdir": str(made.workdir),
        "step": 4,
    }
    assert client.get("/nothing").json() == {"error": "Not Found"}


def test_searches_do_not_hold_up_the_rest(searcher, client):
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
    assert [answer.status_code for answer in started] == [200] * 3


def test_a_fault_of_our_own_is_no_silence(searcher, monkeypatch):
    monkeypatch.setattr(searcher, "search", lambda *_: 1 / 0)
    app = server.make_app(searcher)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/search", content=b"x")
    assert answer.status_code == 500
    assert "failed" in answer.json()["error"]


def test_a_wrong_limit_is_said():
    for megabytes in (0, -1, float("inf"), float("nan")):
        with pytest.raises(UserError, match="at most 1000"):
            server.make_app(None, megabytes)


def test_a_port_is_taken_once():
    with server.listen("127.0.0.1", 0) as listener:
        url = server.address(listener)
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        with pytest.raises(UserError, match="in use"):
            server.listen("127.0.0.1", port)
    with pytest.raises(UserError, match="from 0 to 65535"):
        server.listen("127.0.0.1", 70000)


def test_no_such_host(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UserError, match="not known"):
        server.listen("nowhere", 0)
