"""Description of the machine and the software of a measurement."""

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax


def describe(devices: list[jax.Device]) -> dict[str, Any]:
    """Returns `machine`, a one-line description, and `versions` of packages."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = _cpu_model()
    count = f"{len(devices)} {devices[0].platform} device"
    names = ("jax", "jaxlib", "numpy", "optax", "torch")
    return {
        "machine": f"{kind}, {_cores()} cores, {count}"
        + ("s" if len(devices) > 1 else ""),
        "versions": {"python": platform.python_version()}
        | {name: version for name in names if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Returns the cores available to this process, or all if unknown."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    models = [
        line.split(":")[1].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return models[0] if models else platform.machine()
