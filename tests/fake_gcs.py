"""A server for the part of Google Cloud Storage's JSON API that we use.

See https://cloud.google.com/storage/docs/json_api/v1. Unlike the emulators in
the package registry, it checks the preconditions of writes, as TensorStore
requires, and handles concurrent requests.
"""

import datetime
import http.server
import itertools
import json
import re
import threading
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

PAGE = 5  # objects per page of a listing; small, to test several pages


class Object(NamedTuple):
    """An object in a bucket."""

    data: bytes
    generation: int
    updated: str


class RefusedError(Exception):
    """Answers a request with an error; the argument is the HTTP status."""


class Server(http.server.ThreadingHTTPServer):
    """A server with buckets.

    Attributes:
      buckets: `{bucket: {name: Object}}`.
      frozen: names of read-only buckets.
      url: the address of the server.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets: dict[str, dict[str, Object]] = {}
        self.frozen: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.numbers = itertools.count(1)

    def environment(self) -> dict[str, str]:
        """Returns environment variables that make clients use this server."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs, google-cloud-storage
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # requires gRPC
            "NO_GCE_CHECK": "true",
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        }

    def objects(self, bucket: str) -> dict[str, Object]:
        """Returns a bucket's objects; raises `RefusedError` if missing."""
        if bucket not in self.buckets:
            raise RefusedError(404)
        return self.buckets[bucket]

    def put(
        self, bucket: str, name: str, data: bytes, query: Mapping[str, str]
    ) -> dict:
        """Writes an object if its generation matches the precondition."""
        with self.lock:
            objects = self.objects(bucket)
            if bucket in self.frozen:
                raise RefusedError(403)
            current = objects[name].generation if name in objects else 0
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != current:
                raise RefusedError(412)
            now = datetime.datetime.now(datetime.UTC)
            objects[name] = Object(
                data, next(self.numbers), f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
            )
            return about(bucket, name, objects[name])

    def take(self, bucket: str, name: str, query: Mapping[str, str]) -> Object:
        """Removes an object if its generation matches the precondition."""
        with self.lock:
            objects = self.objects(bucket)
            if bucket in self.frozen:
                raise RefusedError(403)
            if name not in objects:
                raise RefusedError(404)
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != objects[name].generation:
                raise RefusedError(412)
            return objects.pop(name)


def about(bucket: str, name: str, found: Object) -> dict:
    """Returns the metadata of an object in the API's format."""
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "contentType": "application/octet-stream",
        "updated": found.updated,
        "timeCreated": found.updated,
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # The client was killed.
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, act) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        size = int(self.headers["Content-Length"] or 0)
        self.body = self.rfile.read(size)
        if len(self.body) < size:
            raise ConnectionError("The client disconnected during its request.")
        # /[upload/ or download/]storage/v1/b/BUCKET[/o[/NAME[/VERB...]]]
        parts = [unquote(part) for part in url.path.split("/")]
        parts = parts[parts.index("b") + 1 :]
        try:
            act(*parts[:1], *parts[2:])
        except RefusedError as error:
            code = error.args[0]
            body = {"error": {"code": code, "message": self.responses[code][0]}}
            self._send(code, json.dumps(body).encode())

    def _send(self, code: int, data: bytes = b"", **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self._send(200, data, Content_Type="application/json")

    def _get(self, bucket: str, name: str | None = None) -> None:
        objects = self.server.objects(bucket)
        if name is None and not urlsplit(self.path).path.endswith("/o"):
            self._send_json({"kind": "storage#bucket", "name": bucket})
        elif name is None:
            self._send_json(self._list(bucket))
        elif name not in objects:
            raise RefusedError(404)
        elif self.query.get("alt") != "media":
            self._send_json(about(bucket, name, objects[name]))
        else:
            self._send_data(objects[name])

    def _send_data(self, found: Object) -> None:
        wanted = self.query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != found.generation:
            raise RefusedError(412)
        headers = {"x-goog-generation": found.generation}
        if self.query.get("ifGenerationNotMatch") == str(found.generation):
            self._send(304, **headers)
            return
        size = len(found.data)
        limits = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if limits is None:
            self._send(200, found.data, **headers)
            return
        first, last = int(limits[1]), int(limits[2] or size - 1)
        if first >= size:
            raise RefusedError(416)
        data = found.data[first : last + 1]
        headers["Content-Range"] = (
            f"bytes {first}-{first + len(data) - 1}/{size}"
        )
        self._send(206, data, **headers)

    def _list(self, bucket: str) -> dict:
        prefix, delimiter, start, end, after = (
            self.query.get(key, "")
            for key in (
                *("prefix", "delimiter"),
                *("startOffset", "endOffset", "pageToken"),
            )
        )
        with self.server.lock:
            objects = dict(self.server.buckets[bucket])
        entries: dict[str, Object | None] = {}  # None for a prefix
        for name in sorted(objects):
            if not name.startswith(prefix) or name < start:
                continue
            if end and name >= end:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folder = prefix + rest.split(delimiter)[0] + delimiter
                entries[folder] = None
            else:
                entries[name] = objects[name]
        names = [name for name in entries if name > after]
        size = min(int(self.query.get("maxResults", PAGE)), PAGE)
        page = {"kind": "storage#objects", "items": [], "prefixes": []}
        for name in names[:size]:
            if entries[name] is None:
                page["prefixes"].append(name)
            else:
                page["items"].append(about(bucket, name, entries[name]))
        if names[size:]:
            page["nextPageToken"] = names[size - 1]
        return page

    def _post(self, bucket: str, name: str = "", *verb: str) -> None:
        server, query = self.server, self.query
        if verb[:1] == ("moveTo",):
            data = server.take(bucket, name, {}).data
            self._send_json(server.put(bucket, verb[-1], data, {}))
        elif "upload_id" in query:
            self._upload_part(query["upload_id"])
        elif query["uploadType"] == "media":
            self._send_json(server.put(bucket, query["name"], self.body, query))
        elif query["uploadType"] == "multipart":
            mark = re.search(
                r'boundary="?([^";]+)', self.headers.get_all("Content-Type")[0]
            )[1].encode()
            metadata, data = self.body[: self.body.rindex(b"--" + mark)].split(
                b"--" + mark, 2
            )[1:]
            name = json.loads(_content(metadata))["name"]
            self._send_json(server.put(bucket, name, _content(data), query))
        else:
            server.objects(bucket)
            if bucket in server.frozen:
                raise RefusedError(403)
            number = str(next(server.numbers))
            server.uploads[number] = (bucket, query["name"], bytearray())
            where = f"{server.url}{self.path}&upload_id={number}"
            self._send(200, Location=where)

    def _upload_part(self, number: str) -> None:
        bucket, name, data = self.server.uploads[number]
        data += self.body
        if self.headers["Content-Range"].endswith("/*"):
            self._send(308, Range=f"bytes=0-{len(data) - 1}")
            return
        del self.server.uploads[number]
        put = self.server.put(bucket, name, bytes(data), self.query)
        self._send_json(put)

    def _delete(self, bucket: str, name: str) -> None:
        self.server.take(bucket, name, self.query)
        self._send(204)


def _content(part: bytes) -> bytes:
    """Returns a part's content after its headers, without the last newline."""
    end = re.search(rb"\r?\n\r?\n", part).end()
    return re.sub(rb"\r?\n\Z", b"", part[end:])
