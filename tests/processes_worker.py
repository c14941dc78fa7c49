"""A process started by `test_processes.py`; runs the act named by `--act`."""

import os
import signal
import sys
import time

from absl import flags

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.training.checkpoint.checkpoints import Checkpoints
from mixer_jax.training.config import command_line
from mixer_jax.training.state import TrainState
from mixer_jax.training.watch.clock import Clock
from mixer_jax.training.watch.watchdog import Watchdog

_ACT = flags.DEFINE_string("act", None, "The act to run.")
_FOLDER = flags.DEFINE_string("folder", None, "The folder of checkpoints.")


def main() -> None:
    import jax
    from jax.experimental import multihost_utils

    me, last = jax.process_index(), jax.process_count() - 1

    def together(step: int) -> None:
        """Simulates a step, in which all processes take part."""
        multihost_utils.sync_global_devices(str(step))

    if _ACT.value == "gather":
        print(processes.gather("names", f"n{me}"), len(jax.devices()))
    elif _ACT.value == "wrong":
        if me == last:
            raise UserError("The table has no rows.")
        together(0)
    elif _ACT.value == "wrong_for_all":
        if me == 0:
            # Fail before the other process acknowledges the shutdown and exits.
            processes._OVER.set()
            time.sleep(0.5)
        else:
            hear_late()
        raise UserError("The table has no rows.")
    elif _ACT.value == "crash":
        if me == last:
            raise ZeroDivisionError("of all things")
        together(0)
    elif _ACT.value.startswith("stop"):
        early = _ACT.value == "stop_early"
        by_hand = _ACT.value == "stop_by_hand"
        number = signal.SIGINT if by_hand else signal.SIGTERM
        if early and me == last:
            os.kill(os.getpid(), signal.SIGTERM)
        with processes.Preemption() as preemption:
            for step in range(1000):
                if preemption.reached():
                    print("stopped at", step)
                    raise SystemExit(processes.PREEMPTED)
                together(step)
                if (me, step) == (last, 3) and not early:
                    os.kill(os.getpid(), number)
                time.sleep(0.05)
    elif _ACT.value in ("die_before_save", "die_in_save"):
        state = make_state()
        double(state)  # compile
        with Checkpoints(_FOLDER.value) as checkpoints:
            checkpoints.save(1, state, {})
        with Checkpoints(_FOLDER.value) as checkpoints:
            together(0)
            if me == last:
                os.kill(os.getpid(), signal.SIGKILL)
            if _ACT.value == "die_before_save":
                state = double(state)
            checkpoints.save(2, state, {})
    elif _ACT.value == "own":
        with folder_lock.hold(
            _FOLDER.value, "--workdir", together=True
        ) as owner:
            state = make_state()
            with Checkpoints(_FOLDER.value) as checkpoints:
                owner.check()
                checkpoints.save(1, state, {"next": 1})
            with Checkpoints(_FOLDER.value) as checkpoints:
                checkpoints.read({"proxies": {"proxies": state.proxies}})
    elif _ACT.value == "freeze":
        together(-1)  # compile
        clock = Clock()
        with Watchdog(clock, 5.0):
            for step in range(3):
                clock.count(step)
                clock.enter("step")
                together(step)
            if me == last:
                clock.enter("input")
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGSTOP)
            together(3)
    else:
        sys.exit(f"There is no act {_ACT.value}.")


def hear_late() -> None:
    """Delays the acknowledgement of the run's end."""
    hear = processes._hear

    def late() -> None:
        time.sleep(2)
        hear()

    processes._hear = late


def make_state() -> TrainState:
    """Returns a state whose parameters are split over all devices."""
    import jax
    import jax.numpy as jnp

    split = mesh_lib.rows(mesh_lib.make_mesh())
    ones = jax.jit(lambda: jnp.ones((64, 4)), out_shardings=split)()
    return TrainState(
        step=1,
        skipped=0,
        params={"kernel": ones},
        batch_stats={},
        opt_state={},
        proxies=ones,
        proxy_state={},
        graph=None,
    )


def double(state: TrainState) -> TrainState:
    """Simulates a step that gathers the parameters on every device."""
    import jax

    whole = jax.NamedSharding(mesh_lib.make_mesh(), jax.P())
    step = jax.jit(lambda x: 2 * x, out_shardings=whole)
    return state.replace(params={"kernel": step(state.params["kernel"])})


if __name__ == "__main__":
    command_line.run(main, together=True)
