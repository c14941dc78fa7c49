"""Sends searches to a server and prints their response times as JSON.

    python -m benchmarks.serve_load HOST PORT FOLDER --clients=8 --seconds=5
    python -m benchmarks.serve_load HOST PORT FOLDER --rate=100 --seconds=5

With --clients, each client sends its next search as soon as the previous one is
answered. With --rate, searches start at a fixed rate, whether or not earlier
ones are answered. FOLDER holds the pictures.
"""

import argparse
import asyncio
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator

_REST = 0.05  # seconds that a client waits after a refusal
_IDLE = 2.0  # maximum seconds between two searches of a connection


class Client:
    """A connection that stays open between searches."""

    def __init__(self, host: str, port: int):
        """Stores the address; the first search connects."""
        self._address = host, port
        self._streams = None
        self._used = 0.0  # time of the last answer

    async def search(self, picture: bytes) -> tuple[int, float]:
        """Returns the status and the seconds of a search."""
        # The server closes connections that have been idle for some seconds.
        if time.perf_counter() - self._used > _IDLE:
            if self._streams is not None:
                self._streams[1].close()
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        begin = time.perf_counter()
        writer.write(
            b"POST /v1/search?k=12 HTTP/1.1\r\nHost: x\r\nContent-Type: "
            b"image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
        )
        writer.write(picture)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split()[0]
        await reader.readexactly(int(length))
        self._used = time.perf_counter()
        return int(head.split()[1]), self._used - begin


async def closed(
    address: tuple[str, int],
    pictures: Iterator[bytes],
    count: int,
    seconds: float,
) -> list[tuple[int, float]]:
    """Returns the statuses and seconds of searches by `count` clients."""
    answers: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    async def run() -> None:
        client = Client(*address)
        while time.perf_counter() < end:
            answers.append(await client.search(next(pictures)))
            if answers[-1][0] == 503:
                await asyncio.sleep(_REST)

    await asyncio.gather(*(run() for _ in range(count)))
    return answers


async def opened(
    address: tuple[str, int],
    pictures: Iterator[bytes],
    rate: float,
    seconds: float,
) -> list[tuple[int, float]]:
    """Returns the statuses and seconds of searches at a fixed rate."""
    answers: list[tuple[int, float]] = []
    idle: list[Client] = []

    async def send() -> None:
        client = idle.pop() if idle else Client(*address)
        answers.append(await client.search(next(pictures)))
        idle.append(client)

    begin, tasks = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(begin + number / rate - time.perf_counter())
        tasks.append(asyncio.create_task(send()))
    await asyncio.gather(*tasks)
    return answers


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load")
    add = parser.add_argument
    add("host")
    add("port", type=int)
    add("folder", type=pathlib.Path)
    add("--clients", type=int, default=0)
    add("--rate", type=float, default=0)
    add("--seconds", type=float, default=5)
    given = parser.parse_args()
    files = sorted(given.folder.iterdir())
    pictures = itertools.cycle([path.read_bytes() for path in files])
    address = given.host, given.port
    work = (
        closed(address, pictures, given.clients, given.seconds)
        if given.clients
        else opened(address, pictures, given.rate, given.seconds)
    )
    json.dump(asyncio.run(work), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
