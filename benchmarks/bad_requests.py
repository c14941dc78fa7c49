"""Sends bad requests to the search service and counts its answers.

    python -m benchmarks.bad_requests --requests=8000 [--schema=12000] \
        [--json=bad_requests.json]

`--requests` is the number of requests with damaged, disguised, rotated or
animated pictures or bombs (see `bad_pictures`), in bodies, forms and JSON with
bad parameters. `--schema` is the approximate number of requests that
schemathesis, a separate tool, generates from the service's OpenAPI document; it
must be installed, for example with `pip install --target=FOLDER schemathesis`
and FOLDER in PYTHONPATH. The service runs in this process. It has an index of a
few items, a key for writing, and a model that embeds a picture as its mean
color.

Each row counts the answers with one status. A status of 500 or more, except
503, is a fault, as is a request without an answer; the exit code is then 1, and
the failed requests are written to the folder `--faults`.
"""

import argparse
import base64
import collections
import http.client
import json
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich.box
import rich.table

from benchmarks import bad_pictures, machine, printing, serve
from mixer_jax.data.images import memory
from mixer_jax.retrieval.model import Model
from mixer_jax.service import opening
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.recording import Recorder
from mixer_jax.service.http.settings import DEFAULTS
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults

KEY = "a key for writing"
ITEMS = 100
THREADS = 4
_OPERATIONS = 12  # approximate number in the OpenAPI document
_TYPES = ("image/png", "image/jpeg", "", "application/json", "text/plain")
_VALUES = (-1, 0, 1, 5, 1001, 10**30, 0.5, None, True, "", "x", "1e999", [], {})
_LISTS = ([1, 2], [0, 0, 5, 5], [5, 5, 1, 1], [0, 0, 10**9, 10**9], [1] * 999)
_VALUES += (*_LISTS, {"price": {"min": 1}}, {"none": 1}, {"price": []}, "\0é")
Row = dict[str, Any]


class Request(NamedTuple):
    """A request to send."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad_requests",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--requests", type=int, default=8000, help="requests with pictures")
    add("--schema", type=int, default=0, help="requests by schemathesis")
    add("--seed", type=int, default=0)
    add("--faults", default="", help="folder for requests that fail")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    rows, faults = measure(given.requests, given.schema, given.seed)
    for number, fault in enumerate(faults if given.faults else ()):
        folder = pathlib.Path(given.faults)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(repr(fault))
    printing.show(table(rows), rows, 100, given.json)
    return int(any(row["is_fault"] for row in rows))


def measure(
    requests: int, schema: int, seed: int = 0
) -> tuple[list[Row], list[Any]]:
    """Returns the rows, and the failed requests with their answers."""
    with tempfile.TemporaryDirectory() as name:
        folder, model = pathlib.Path(name), make_model()
        serve.fill(folder / "index", model, ITEMS)
        memory.allow(DEFAULTS.max_pixels / 1e6, "--max-megapixels")
        memory.return_freed_blocks()

        def open_(_: Model | None) -> Any:
            return opening.open_with(folder / "index", model)

        settings = DEFAULTS._replace(
            keys=Keys(write=(KEY.encode(),)),
            recorder=Recorder(folder / "events", 1),
        )
        with (
            Generations(open_, settings.max_pixels) as generations,
            serve.serving(generations, settings) as address,
        ):
            return _measure(address, requests, schema, seed)


class MeanColor(nn.Module):
    """Embeds a picture as its mean color; has the interface of the towers."""

    def encode_query(self, query, train=False):
        """Returns f32 `[B, 3]`, unit rows."""
        color = query["image"].astype(jnp.float32).mean((1, 2)) - 127.3
        return color / jnp.linalg.norm(color, axis=-1, keepdims=True)

    def encode_document(self, document, train=False):
        """Returns f32 `[B, 3]`, unit rows, whatever the text."""
        return self.encode_query(document)


def make_model() -> Model:
    """Returns a model that compiles quickly."""
    config = defaults.defaults()
    config.data.image_size = config.data.text_length = 64
    config.model.dim = 3
    return Model(Trained(config, MeanColor(), {}, [], 0))


def _measure(
    address: tuple[str, int], requests: int, schema: int, seed: int
) -> tuple[list[Row], list[Any]]:
    answers, faults = send(address, drawn(requests, seed))
    rows = _rows("pictures", answers)
    if schema:
        before = statuses(address)
        run_schemathesis(address, schema, seed)
        rows += _rows("schema", statuses(address) - before)
    # The next search must still be answered.
    picture = bad_pictures.one_color(64)
    last = Request("POST", "/v1/search", picture, {})
    rows += _rows("afterwards", send(address, [last])[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    facts = {"peak_mb": peak} | machine.describe(jax.devices())
    return [row | facts for row in rows], faults


def _rows(name: str, answers: collections.Counter) -> list[Row]:
    return [
        {
            "requests": name,
            "status": status,
            "count": count,
            "is_fault": status == 0 or (status >= 500 and status != 503),
        }
        for status, count in sorted(answers.items())
    ]


def drawn(count: int, seed: int) -> Iterator[Request]:
    """Yields requests with pictures and bad parameters."""
    rng = random.Random(seed)
    for _ in range(count):
        picture = bad_pictures.draw(rng)
        yield rng.choice(_MAKERS)(picture, rng)


def _body(picture: bytes, rng: random.Random) -> Request:
    query = f"?{rng.choice(_QUERIES)}" if rng.random() < 0.3 else ""
    headers = {"Content-Type": rng.choice(_TYPES)}
    return Request("POST", f"/v1/search{query}", picture, headers)


def _form(picture: bytes, rng: random.Random) -> Request:
    parts = [b'name="file"; filename="a.png"\r\n\r\n' + picture]
    for name in rng.sample(_NAMES, rng.randrange(3)):
        value = json.dumps(rng.choice(_VALUES)).encode()
        parts.append(f'name="{name}"\r\n\r\n'.encode() + value)
    lead = b"--xyz\r\nContent-Disposition: form-data; "
    body = b"".join(lead + part + b"\r\n" for part in parts) + b"--xyz--\r\n"
    boundary = rng.choice(["xyz"] * 9 + ["other"])
    kind = f"multipart/form-data; boundary={boundary}"
    is_item = rng.random() < 0.3
    method, path = ("PUT", "/v1/items/a") if is_item else ("POST", "/v1/search")
    return Request(method, path, body, {"Content-Type": kind})


def _json(picture: bytes, rng: random.Random) -> Request:
    """Returns a request for a search, new items or embeddings."""
    text = base64.b64encode(picture).decode()
    body = {"image": rng.choice([text, f"data:image/png;base64,{text}"])}
    for name in rng.sample(_NAMES, rng.randrange(3)):
        body[name] = rng.choice(_VALUES)
    kind = rng.randrange(4)
    method, path, whole = "POST", "/v1/search", body
    if kind == 1:
        whole = {"queries": [body] * rng.choice([0, 1, 2, 17])}
    elif kind == 2:
        path, whole = "/v1/items", body | {"id": rng.choice(["a", "b", ""])}
    elif kind == 3:
        path, whole = "/v1/embeddings", {"input": [body]}
    content = json.dumps(whole).encode()
    if rng.random() < 0.1:
        content = content[: rng.randrange(len(content))]
    return Request(method, path, content, {"Content-Type": "application/json"})


_NAMES = ("k", "offset", "box", "where", "min_score", "min_probability", "id")
_NAMES += ("group_by", "text", "vector", "fields", "no")
_QUERIES = (
    "k=0",
    "k=9999",
    "k=٣",
    "box=1,2,3",
    "box=9,9,1,1",
    "where={",
    "no=1",
)
_QUERIES += (
    "box=0,0,5,5",
    "min_score=nan",
    "group_by=%00",
    "k=1&k=2",
    "text=%ff",
)
_MAKERS = (_body, _body, _form, _json)


def send(
    address: tuple[str, int], requests: Iterable[Request]
) -> tuple[collections.Counter, list[Any]]:
    """Returns the number of answers by status (0 for none), and the faults."""
    counts: collections.Counter = collections.Counter()
    faults = []

    def count(request: Request) -> None:
        status, answer = ask(address, request)
        counts[status] += 1
        if status == 0 or (status >= 500 and status != 503):
            faults.append((request, status, answer))

    with ThreadPoolExecutor(THREADS) as pool:
        # Draw requests while others are sent, to hold only a few in memory.
        for _ in _bounded(pool, count, requests):
            pass
    return counts, faults


def _bounded(pool, work, given) -> Iterator[Any]:
    waiting: collections.deque = collections.deque()
    for one in given:
        waiting.append(pool.submit(work, one))
        if len(waiting) > 4 * THREADS:
            yield waiting.popleft().result()
    for one in waiting:
        yield one.result()


def ask(address: tuple[str, int], request: Request) -> tuple[int, bytes]:
    """Returns the status and the body of an answer; 0 if there is none."""
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        path = "".join(c if c.isascii() else "%ff" for c in request.path)
        headers = request.headers | {"X-API-Key": KEY}
        connection.request(request.method, path, request.body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def statuses(address: tuple[str, int]) -> collections.Counter:
    """Returns the number of answers by status so far."""
    _, text = ask(address, Request("GET", "/metrics", b"", {}))
    found: collections.Counter = collections.Counter()
    for line in text.decode().splitlines():
        if line.startswith("mixer_requests_total{"):
            status = int(re.search(r'status="(\d+)"', line)[1])
            found[status] += int(float(line.split()[-1]))
    return found


def run_schemathesis(address: tuple[str, int], count: int, seed: int) -> None:
    """Sends about `count` requests, valid and invalid, of all operations."""
    host, port = address[:2]
    command = [sys.executable, "-m", "schemathesis.cli", "run"]
    command.append(f"http://{host}:{port}/openapi.json")
    command += [f"--header=X-API-Key:{KEY}", f"--seed={seed}", "--no-color"]
    command += ["--phases=examples,coverage,fuzzing", "--continue-on-failure"]
    command += [f"--max-examples={max(1, count // _OPERATIONS)}"]
    command += ["--workers=1", "--checks=not_a_server_error", "--no-shrink"]
    command += ["--suppress-health-check=all", "--request-timeout=120"]
    subprocess.run(command, check=False)


def table(rows: Sequence[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    for name in ("requests", "status", "count", "fault"):
        shown.add_column(name)
    for row in rows:
        fault = "yes" if row["is_fault"] else ""
        status = f"{row['status'] or 'none'}"
        shown.add_row(row["requests"], status, f"{row['count']:,}", fault)
    return shown


if __name__ == "__main__":
    sys.exit(main())
