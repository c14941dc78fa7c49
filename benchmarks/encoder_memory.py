"""Peak memory of one encoder's pass, measured in its own process.

As in `memory.py`, this is the memory of the weights, the inputs and three
passes, without the interpreter, libraries, the backend and the compiled pass.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import jax

from benchmarks import encoder_sides, memory, partial_fc_torch
from mixer_jax.runtime import mesh as meshes

OURS, PEER = SIDES = ("ours", "peer")


def measure(problem: encoder_sides.Problem, name: str, side: str) -> float:
    """Runs a pass in a separate process; returns its peak in MB.

    Raises:
      RuntimeError: if the process failed.
    """
    job = {"problem": dataclasses.asdict(problem), "name": name, "side": side}
    old = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(memory.ROOT), *filter(None, [old])])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.encoder_memory", json.dumps(job)],
        env=os.environ
        | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"Measuring the memory of {problem.model} ({side}, {name}) failed "
            f"with exit code {done.returncode}:\n{done.stderr[-4000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def run(problem: dict[str, Any], name: str, side: str) -> float:
    """Runs the passes, in the measured process; returns the peak in MB."""
    problem = encoder_sides.Problem(**problem)
    if side == PEER:
        encoder_sides.original(problem)
        device = partial_fc_torch.device()
        before = memory._torch_in_use(device)
        one = encoder_sides.Peer(problem)
    else:
        mesh = meshes.make_mesh(jax.devices()[:1])
        one = encoder_sides.Ours(problem)
        one.compile(name)
        before = memory._in_use(mesh)
        one.place()
    for _ in range(memory.STEPS):
        one.run(name)
    if side == PEER:
        peak = memory._torch_in_use(device, peak=True)
    else:
        peak = memory._in_use(mesh, peak=True)
    return (peak - before) / 1e6


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
