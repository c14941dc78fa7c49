import os
import signal

import jax.numpy as jnp
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.watch.profile import Profiler, parse


def captures(folder):
    return sorted((folder / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_parse_reads_first_and_last_step():
    assert parse("100:105") == range(100, 106)
    assert len(parse("")) == 0
    for wrong in ("100", "7:3", "a:b"):
        with pytest.raises(UserError, match="FIRST:LAST"):
            parse(wrong)


def test_configured_steps_are_captured(tmp_path):
    with Profiler(tmp_path, parse("2:3")) as profiler:
        for step in range(5):
            assert bool(captures(tmp_path)) == (step > 4)
            profiler.before(step, jnp.zeros(()))
    assert len(captures(tmp_path)) == 1


def test_signal_captures_the_next_steps(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with Profiler(tmp_path, parse("")) as profiler:
        profiler.before(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        profiler.before(1)
    # The end of the run ends the capture.
    assert len(captures(tmp_path)) == 1
    assert signal.getsignal(signal.SIGUSR1) is before
