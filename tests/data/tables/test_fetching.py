"""Images are fetched from a local server started by the tests."""

import collections
import http.server
import io
import threading
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax import embed
from mixer_jax.data import check, prepare
from mixer_jax.data.prepared import build, opening
from mixer_jax.data.tables import fetching, rules, table
from mixer_jax.runtime import errors
from mixer_jax.runtime.tabular import addresses
from mixer_jax.training import inputs
from mixer_jax.training.config import defaults as config_lib


class Server(http.server.ThreadingHTTPServer):
    """Serves files, optionally after scripted error responses.

    Attributes:
      files: the bytes at each path.
      scripts: status codes to send first, by path.
      seen: the times of all requests, by path.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.scripts = {}, collections.defaultdict(list)
        self.seen = collections.defaultdict(list)

    @property
    def root(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.seen[self.path].append(time.monotonic())
        script = server.scripts[self.path]
        code = script.pop(0) if script else 200
        content = server.files.get(self.path)
        if isinstance(code, str):
            self.send_response(302)
            self.send_header("Location", code)
            self.end_headers()
            return
        if content is None and code == 200:
            code = 404
        self.send_response(code)
        if code == 200:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if code == 200:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setattr(addresses, "SCHEMES", ("https://", made.root))
        monkeypatch.setattr(fetching, "_PAUSE", 0.01)
        yield made
        made.shutdown()


def draw(number):
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(content, "png")
    return content.getvalue()


@pytest.fixture
def path(server, tmp_path):
    """A table of six image addresses; the last repeats the first."""
    rows = []
    for number in range(6):
        name = f"/größe {number % 5}.png"
        quoted = name.replace("ö", "%C3%B6").replace("ß", "%C3%9F")
        server.files[quoted.replace(" ", "%20")] = draw(number % 5)
        role = ("query", "document")[number % 2]
        image = f"{server.root}{name}"
        rows.append((f"s{number}", role, image, "", "c", "", "train"))
    rows.append(("t", "query", f"{server.root}/test", "", "c", "", "test"))
    path = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=rules.COLUMNS).to_csv(path, index=False)
    return path


def run(path, *arguments):
    return prepare.main([f"--table={path}", "--fetch-rate=1000", *arguments])


def requests(server):
    return sum(map(len, server.seen.values()))


def errors_of(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_images_are_fetched_once(server, path, capsys):
    assert run(path) == 0
    assert requests(server) == 5
    assert "Fetched 5 images into" in errors_of(capsys)
    opened = opening.open_table(path, "train")
    _, source = opened.prepared.training()
    contents = [source[row][0] for row in range(6)]
    assert contents == [draw(number % 5) for number in range(6)]
    table_rows = path.read_text()
    for text in (table_rows, table_rows + "\n"):
        path.write_text(text)
        assert run(path) == 0
    assert requests(server) == 5


def test_no_other_command_fetches(server, path, capsys, color_run):
    need = "it has not been fetched; run python -m mixer_jax.data.prepare"
    arguments = [f"--workdir={color_run}/stage2", f"--table={path}"]
    assert embed.main([*arguments, f"--out={path.parent}/out.npz"]) == 2
    message = errors_of(capsys)
    assert need in message
    assert f"{server.root}/größe 0.png: it has" in message
    data = config_lib.defaults().data
    data.table = str(path)
    for made in (False, True):
        with pytest.raises(errors.UserError, match=need):
            inputs.load(data, prepare=made)
    assert check.main([f"--table={path}", "--images"]) == 2
    assert "größe 0.png" in errors_of(capsys)
    assert requests(server) == 0
    # Samples that were prepared without their images are prepared again.
    assert run(path) == 0
    assert len(inputs.load(data).samples) == 6


def test_failures_are_listed_and_tried_again(server, path, capsys):
    lost = "/gr%C3%B6%C3%9Fe%201.png"
    server.scripts[lost] = [404]
    assert run(path) == 2
    assert "could not be fetched: the server answered 404" in errors_of(capsys)
    assert len(server.seen[lost]) == 1
    server.scripts[lost] = [404]
    assert run(path, "--max-skipped=0.5") == 0
    (listed,) = path.parent.glob("prepared/*/*/skipped.csv")
    skipped = pd.read_csv(listed)
    assert skipped["kind"].tolist() == ["missing"]
    wanted = f"{server.root}/größe 1.png: it could not be fetched: the server"
    assert skipped["reason"][0].startswith(wanted)
    assert run(path) == 0
    assert len(server.seen[lost]) == 3
    assert requests(server) == 5 + 2
    assert not list(path.parent.glob("fetched/*/*.failed"))


def test_empty_answers_and_files_count_as_missing(server, path):
    name = "/gr%C3%B6%C3%9Fe%201.png"
    good, server.files[name] = server.files[name], b""
    assert run(path, "--max-skipped=0.5") == 0
    (listed,) = path.parent.glob("prepared/*/*/skipped.csv")
    assert "the response is empty" in pd.read_csv(listed)["reason"][0]
    server.files[name] = good
    file = path.parent / addresses.file(f"{server.root}/größe 1.png")
    file.write_bytes(b"")  # as after a power failure
    assert run(path) == 0
    assert file.read_bytes() == good


def test_passing_errors_are_tried_again(server, path):
    name = "/gr%C3%B6%C3%9Fe%201.png"
    server.scripts[name] = [503, 429]
    assert run(path) == 0
    assert len(server.seen[name]) == 3
    server.scripts["/test"] = [500] * 9
    frame = table.select(table.read_table(path), "test")
    fetching.fetch(frame["image"], path.parent, 1000)
    assert len(server.seen["/test"]) == fetching._TRIES


def test_the_rate_per_host_is_limited(monkeypatch):
    fetcher = fetching._Fetcher(20)
    waited = []
    monkeypatch.setattr(fetching.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(fetcher.stopped, "wait", waited.append)
    for host in ("a", "a", "b", "a", "b:81"):
        fetcher._wait_for_turn(f"https://{host}/x.png")
    np.testing.assert_allclose(waited, [0, 0.05, 0, 0.1, 0], atol=1e-9)


def test_large_images_and_other_schemes_are_refused(
    server, path, monkeypatch, tmp_path
):
    (tmp_path / "secret").write_bytes(draw(9))
    name = "/gr%C3%B6%C3%9Fe%20"
    server.scripts[f"{name}0.png"] = [f"file://{tmp_path}/secret"]
    server.scripts[f"{name}1.png"] = ["http://localhost:1/a.png"]
    server.scripts[f"{name}2.png"] = [f"{server.root}{name}3.png"]
    server.files[f"{name}4.png"] = bytes(5000)
    monkeypatch.setattr(fetching, "MAX_BYTES", 4000)
    assert run(path, "--max-skipped=0.9") == 0
    (listed,) = path.parent.glob("prepared/*/*/skipped.csv")
    reasons = pd.read_csv(listed)["reason"].tolist()
    assert "is not allowed" in reasons[0]
    assert "is not an https:// address" in reasons[1]
    assert "it has more than 4,000 bytes" in reasons[2]
    assert reasons[3] == reasons[0]  # The last row repeats the first.
    file = tmp_path / addresses.file(f"{server.root}/größe 2.png")
    assert file.read_bytes() == draw(3)


def test_an_interrupted_run_resumes(server, path, monkeypatch):
    write = fetching._write

    def fail(path, content):
        if len(list(path.parent.parent.glob("*/*"))) == 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(fetching, "_write", fail)
    monkeypatch.setattr(fetching, "_THREADS", 1)
    assert run(path) == 2
    before = requests(server)
    assert len(list(path.parent.glob("fetched/*/*"))) == 2
    monkeypatch.undo()
    monkeypatch.setattr(addresses, "SCHEMES", ("https://", server.root))
    assert run(path) == 0
    assert requests(server) == before + 3


def test_addresses_without_encryption_are_refused(path, monkeypatch, capsys):
    monkeypatch.setattr(addresses, "SCHEMES", ("https://",))
    for command in (check, prepare):
        assert command.main([f"--table={path}"]) == 2
        assert "only those at https://, gs:// and s3://" in errors_of(capsys)


def test_boxes_of_an_address_share_its_file(server, path):
    frame = pd.read_csv(path, keep_default_na=False)
    frame["image"] = frame["image"].iloc[0]
    boxed = dict(x1=0, y1=0, x2=frame.index + 1, y2=8)
    frame.assign(**boxed).to_csv(path, index=False)
    assert run(path) == 0
    assert requests(server) == 1
    options = build.Options()
    opened = opening.open_table(path, "train", options=options)
    assert len(opened.prepared.training()[0].first_image) == 6
