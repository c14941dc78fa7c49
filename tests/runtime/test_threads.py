"""Pools cancel pending work on an error; shields block signals."""

import signal
import threading

import pytest

from mixer_jax.runtime import threads


def test_pending_work_is_cancelled_when_the_block_raises():
    begun, release = [], threading.Event()

    def work(number):
        begun.append(number)
        release.wait()

    def fill():
        with threads.pool(1) as pool:
            for number in range(100):
                pool.submit(work, number)
            while not begun:
                pass
            threading.Timer(0.2, release.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert begun == [0]


def test_signals_are_blocked_only_within_the_shield():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with threads.shielded():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
