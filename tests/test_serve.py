"""The serve command with an index built by the color model."""

import json
import os
import signal
import sys
import threading
import urllib.request

import pytest

from mixer_jax import index, serve
from mixer_jax.data.images import memory
from mixer_jax.service import server
from mixer_jax.service.stores.local import LocalStore


@pytest.fixture
def folder(color_run, colors, tmp_path):
    arguments = [
        "build",
        f"--workdir={color_run}",
        f"--table={colors[0] / 'colors.csv'}",
        f"--out={tmp_path / 'index'}",
    ]
    assert index.main(arguments) == 0
    return tmp_path / "index"


def test_serves_searches_until_ctrl_c(folder, colors, monkeypatch, capsys):
    picture = (colors[0] / "green_query_forward.png").read_bytes()
    answers = []

    def ask(url):
        # Wait for the server, then stop it as Ctrl-C does.
        with urllib.request.urlopen(f"{url}/v1/search?k=2", picture) as answer:
            answers.append(json.load(answer))
        os.kill(os.getpid(), signal.SIGINT)

    def listen(host, port):
        listener = listen_(host, port)
        url = server.address(listener)
        threading.Thread(target=ask, args=[url], daemon=True).start()
        return listener

    listen_ = server.listen
    monkeypatch.setattr(server, "listen", listen)
    assert serve.main([f"--index={folder}", "--port=0"]) == 0
    output = capsys.readouterr().out
    assert "Serving 12 items at http://127.0.0.1:" in output
    assert "Stopped." in output
    found = [result["category"] for result in answers[0]["results"]]
    assert found == ["green", "green"]


def test_invalid_arguments_are_rejected(folder, tmp_path, monkeypatch, capsys):
    with server.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        for arguments, message in (
            ([f"--index={folder}", f"--port={port}"], "in use"),
            (
                [f"--index={folder}", "--port=0", "--max-megabytes=0"],
                "megabytes",
            ),
            ([f"--index={folder}", "--port=0", "--max-megapixels=0"], "pixels"),
            ([f"--index={tmp_path / 'no'}"], "no index"),
            (
                [f"--index={folder}", f"--workdir={tmp_path / 'no'}"],
                "no trained",
            ),
            ([f"--index={folder}", f"--images={tmp_path / 'no'}"], "--images="),
        ):
            assert serve.main(arguments) == 2
            assert message in capsys.readouterr().err
    other = f"--workdir={tmp_path / 'run' / 'stage1'}"
    with LocalStore.open(folder) as store:
        store._database.set(fingerprint="another")
    assert serve.main([f"--index={folder}", "--port=0", other]) == 2
    assert "embed the items again" in capsys.readouterr().err


def test_an_index_of_another_format_is_refused(folder, capsys):
    for format, message in ((4, "has format 4, but"), (2, "no longer reads")):
        metadata = json.loads((folder / "index.json").read_text())
        text = json.dumps(metadata | {"format": format})
        (folder / "index.json").write_text(text)
        # An accepted index would lead to an error about the port.
        assert serve.main([f"--index={folder}", "--port=70000"]) == 2
        error = capsys.readouterr().err
        assert f"error: The index in {folder} " in error
        assert message in error
        assert "Traceback" not in error


@pytest.mark.parametrize(
    "package", ["uvicorn", "starlette", "python_multipart"]
)
def test_missing_packages_are_reported(monkeypatch, capsys, package):
    for name in list(sys.modules):
        if name.startswith((package, "mixer_jax.service.server")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mixer_jax.service.server")
    monkeypatch.setitem(sys.modules, package, None)
    assert serve.main(["--index=no"]) == 2
    error = capsys.readouterr().err
    assert package in error
    assert "pip install 'mixer_jax[serve]'" in error


def test_moved_run_and_images_are_reported(
    folder, tmp_path, monkeypatch, capsys
):
    served = []
    monkeypatch.setattr(server, "run", lambda app, _: served.append(app))
    monkeypatch.setattr(memory, "BUDGET", memory.Budget(1))
    (tmp_path / "run").rename(tmp_path / "model")
    (tmp_path / "data").rename(tmp_path / "pictures")
    arguments = [f"--index={folder}", "--port=0", "--max-megapixels=2"]
    assert serve.main(arguments) == 2
    assert "--workdir=FOLDER" in capsys.readouterr().err
    arguments.append(f"--workdir={tmp_path / 'model'}")
    assert serve.main(arguments) == 0
    error = capsys.readouterr().err
    assert f"12 of 12 pictures are missing in {tmp_path / 'data'}" in error
    assert "--images=FOLDER" in error
    arguments.append(f"--images={tmp_path / 'pictures'}")
    assert serve.main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert len(served) == 2
    assert memory.BUDGET.total == 2_000_000 * 24
