"""Peak memory of one contender, measured in its own process.

On a CPU, this is the maximum resident set while the arrays are made and three
steps run, minus the resident set before: the interpreter, libraries, the
backend and the compiled step. The step is compiled first, so that the
compiler's temporary memory does not count, and the arrays are filled chunk by
chunk, so that creating them does not set the peak. On an accelerator, it is the
allocator's figure for the device that needs the most.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

import jax
from jax.sharding import Mesh

from benchmarks import contenders, partial_fc_torch
from benchmarks.arrays import make_arrays
from mixer_jax.runtime import mesh as meshes

STEPS = 3
ROOT = pathlib.Path(__file__).parents[1]
_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def measure(
    problem: contenders.Problem, name: str, active: float
) -> dict[str, float] | None:
    """Measures the contender `name` in its own process.

    Returns:
      `peak_mb`, needed by the arrays and the steps, and `runtime_mb`, in use
      before them; None if there was not enough memory.

    Raises:
      RuntimeError: if the process failed for another reason.
    """
    job = dataclasses.asdict(problem) | {"head": name, "active": active}
    path = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = os.environ | {
        "PYTHONPATH": path,
        # With preallocation, all memory would count as in use.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if jax.config.jax_num_cpu_devices > 0:
        count = str(jax.config.jax_num_cpu_devices)
        environment["JAX_NUM_CPU_DEVICES"] = count
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(job)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    # The kernel's OOM killer sends signal 9.
    signs = ("RESOURCE_EXHAUSTED", "MemoryError", "out of memory")
    if done.returncode == -9 or any(sign in done.stderr for sign in signs):
        return None
    raise RuntimeError(
        f"Measuring the memory of {name} failed:\n{done.stderr[-4000:]}"
    )


def _main(job: dict) -> dict[str, float]:
    """Runs three steps of one contender, in the measured process."""
    name, active = job.pop("head"), job.pop("active")
    job["overrides"] = tuple((key, value) for key, value in job["overrides"])
    problem = contenders.Problem(**job)
    if name == partial_fc_torch.NAME:
        contender = partial_fc_torch.make_contender(problem, active)
        device = partial_fc_torch.device()
        before = _torch_in_use(device)
        for _ in range(STEPS):
            contender.run(None, None)
        peak = _torch_in_use(device, peak=True)
    else:
        mesh = meshes.make_mesh()
        contender = contenders.make_contender(problem, mesh, name, active)
        contender.compile()
        before = _in_use(mesh)
        k = contenders.neighbors(problem, mesh, (name,))
        arrays = make_arrays(
            problem.classes, problem.dim, problem.batch, k, mesh
        )
        for step in range(STEPS):
            key = jax.random.fold_in(jax.random.key(0), step)
            jax.block_until_ready(contender.run(arrays, key))
        peak = _in_use(mesh, peak=True)
    return {"peak_mb": (peak - before) / 1e6, "runtime_mb": before / 1e6}


def _in_use(mesh: Mesh, peak: bool = False) -> int:
    """Returns the bytes in use, or their peak; on CPUs, see `resident`."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if mesh.devices.flat[0].platform == "cpu" or None in stats:
        return resident(peak)
    return max(
        s["peak_bytes_in_use" if peak else "bytes_in_use"] for s in stats
    )


def _torch_in_use(device: str, peak: bool = False) -> int:
    import torch

    if device == "cpu":
        return resident(peak)
    if peak:
        return torch.cuda.max_memory_allocated()
    return torch.cuda.memory_allocated()


def resident(peak: bool) -> int:
    """Returns peak resident bytes, or current bytes after resetting the peak.

    On Linux, this reads the kernel's high-water mark, because it can be reset
    and because `ru_maxrss` starts from the parent's peak.
    """
    if not peak:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
    try:
        name = "VmHWM" if peak else "VmRSS"
        match = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
        return int(match[1]) * 1024
    except OSError:  # not Linux: the peak in both cases
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
