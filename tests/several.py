"""Runs commands as several real processes on this machine."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


_begun: list[subprocess.Popen] = []


class Ended(NamedTuple):
    """What a process left."""

    code: int
    output: str
    error: str


def free_port() -> int:
    """Returns a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(devices: int, cache: str | os.PathLike) -> dict[str, str]:
    """Returns the environment of a process of some CPU devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Programs run for a moment, and are compiled by every process.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }


def begin(
    command: Sequence[str],
    processes: int,
    devices: int,
    cache: str | os.PathLike,
    coordinate_one: bool = False,
    **variables: str,
) -> list[subprocess.Popen]:
    """Starts a Python command as several processes of some devices each.

    Args:
      command: what follows `python`; where there are several, the flags of
        their coordination follow.
      processes: how many.
      devices: of each.
      cache: folder of compiled programs, shared by all.
      coordinate_one: whether those flags follow for a single process too:
        then it forms sums over devices in the order in which several do.
      **variables: of the environment.
    """
    port = free_port()
    coordinated = processes > 1 or coordinate_one
    begun = []
    for process in range(processes):
        flags = (
            f"--coordinator=127.0.0.1:{port}",
            f"--processes={processes}",
            f"--process={process}",
        )
        begun.append(
            subprocess.Popen(
                [sys.executable, *command, *(flags if coordinated else ())],
                cwd=ROOT,
                env=environment(devices, cache) | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    _begun.extend(begun)
    return begun


def end_all() -> None:
    """Kills what a test has begun and not finished, as where it failed."""
    while _begun:
        with _begun.pop() as process:
            process.kill()


def finish(begun: Sequence[subprocess.Popen]) -> list[Ended]:
    """Waits for the processes; none outlives this call."""
    try:
        said = [process.communicate(timeout=900) for process in begun]
    finally:
        for process in begun:
            process.kill()
    return [
        Ended(process.returncode, *text)
        for process, text in zip(begun, said, strict=True)
    ]
