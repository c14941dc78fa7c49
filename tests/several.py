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
    """The exit code and output of a process."""

    code: int
    output: str
    error: str


def free_port() -> int:
    """Returns an unused port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def environment(devices: int, cache: str | os.PathLike) -> dict[str, str]:
    """Returns the environment of a process with this number of CPU devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
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
    """Starts a Python command as several processes.

    Args:
      command: the arguments of `python`. Several processes also get the flags
        that let them connect.
      processes: the number of processes.
      devices: the number of devices per process.
      cache: the compilation cache that all processes share.
      coordinate_one: whether a single process gets these flags too. It then
        sums over devices in the same order as several processes.
      **variables: additional environment variables.
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
    """Kills unfinished processes started by a test."""
    while _begun:
        with _begun.pop() as process:
            process.kill()


def finish(begun: Sequence[subprocess.Popen]) -> list[Ended]:
    """Waits for the processes; none outlives this call."""
    try:
        outputs = [process.communicate(timeout=900) for process in begun]
    finally:
        for process in begun:
            process.kill()
    return [
        Ended(process.returncode, *text)
        for process, text in zip(begun, outputs, strict=True)
    ]
