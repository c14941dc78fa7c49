"""Batches from worker processes, and how these processes end."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import grain
import numpy as np
import pytest

from mixer_jax.data.images import faults
from mixer_jax.data.stream import workers
from mixer_jax.runtime import command


def make_numbers():
    """Returns an endless dataset of arrays."""
    return (
        grain.MapDataset.range(7)
        .repeat()
        .map_with_index(
            lambda index, value: {"x": np.full((3, 4), 10 * index + value)}
        )
    )


def read(iterator, count):
    return [next(iterator)["x"][0, 0].item() for _ in range(count)]


WANTED = [10 * i + i % 7 for i in range(30)]


def test_position_is_independent_of_the_number_of_workers():
    threads = iter(make_numbers().to_iter_dataset())
    assert read(threads, 4) == WANTED[:4]
    with contextlib.closing(workers.WorkerBatches(make_numbers(), 2)) as two:
        two.set_state(threads.get_state())
        assert read(two, 6) == WANTED[4:10]
        last = next(two)["x"]
        assert type(last) is np.ndarray  # not in shared memory
        assert last[0, 0] == WANTED[10]
        state = two.get_state()
        assert len(multiprocessing.active_children()) == 2
        # Resetting to an earlier position starts new processes.
        two.set_state({"next_index": 3})
        assert two.get_state() == {"next_index": 3}
    assert state == {"next_index": 11}
    assert not multiprocessing.active_children()
    threads.set_state(state)
    assert read(threads, 5) == WANTED[11:16]
    with pytest.raises(ValueError, match="closed"):
        next(two)


def test_worker_uses_only_the_cpu_and_forwards_errors():
    def look(index):
        if index:
            raise faults.UnreadableImageError("a.png: gone.", faults.MISSING)
        jax = sys.modules.get("jax")
        bridge = sys.modules.get("jax._src.xla_bridge")
        return {
            "platforms": os.environ["JAX_PLATFORMS"],
            "config": jax and jax.config.jax_platforms,
            "backends": len(bridge._backends) if bridge else 0,
            "interrupt": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
            "parent": os.getppid(),
        }

    dataset = grain.MapDataset.range(2).map(look)
    with contextlib.closing(workers.WorkerBatches(dataset, 1)) as one:
        found = next(one)
        assert found.pop("config") in (None, "cpu")
        assert found == {
            "platforms": "cpu",
            "backends": 0,
            "interrupt": True,
            "parent": os.getpid(),
        }
        with pytest.raises(faults.UnreadableImageError, match="gone") as caught:
            next(one)
    assert caught.value.kind == faults.MISSING


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, time
            import grain
            from mixer_jax.data.stream import workers

            if __name__ == "__main__":
                dataset = grain.MapDataset.range(7).repeat()
                batches = workers.WorkerBatches(dataset, 1)
                next(batches)
                (child,) = multiprocessing.active_children()
                print(child.pid, flush=True)
                time.sleep(600)
            """
        )
    )
    command = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with command:
        child = int(command.stdout.readline())
        assert alive(child)
        command.kill()
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


@pytest.mark.parametrize("number", command.SIGNALS)
@pytest.mark.parametrize("moment", ["start", "between"])
def test_workers_ignore_signals_to_the_process_group(number, moment, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        textwrap.dedent(
            """
            import contextlib, multiprocessing, os, signal, sys, threading
            import time
            import grain
            from mixer_jax.data.stream import workers

            NUMBER, MOMENT = int(sys.argv[1]), sys.argv[2]

            def signal_group():
                while len(multiprocessing.active_children()) < 2:
                    time.sleep(0.001)
                os.killpg(0, NUMBER)

            if __name__ == "__main__":
                received = []
                signal.signal(NUMBER, lambda *_: received.append(1))
                dataset = grain.MapDataset.range(7).repeat()
                batches = workers.WorkerBatches(dataset, 2)
                with contextlib.closing(batches):
                    if MOMENT == "start":
                        thread = threading.Thread(target=signal_group)
                        thread.start()
                    found = [next(batches)]
                    if MOMENT == "start":
                        thread.join()
                    else:
                        signal_group()
                    found += [next(batches) for _ in range(20)]
                assert received
                print(found)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script, str(int(number)), moment],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"{[i % 7 for i in range(21)]}\n"
