"""Every command, interrupted at the start, in the middle and at the end.

It prints one message and exits with code 75. No file is incomplete, existing
files are kept, and the same command resumes.
"""

import inspect
import os
import re
import shutil
import signal
import sys
import threading

import numpy as np
import pytest

from mixer_jax import categorize, index, serve
from mixer_jax.experiments import granularity, results_log
from mixer_jax.runtime import command as command_lib
from mixer_jax.service import server
from tests import every_command
from tests.every_command import COMMANDS

MOMENTS = (0.0, 0.3, 0.6, 0.9, 1.0)


@pytest.fixture
def inputs(
    tiny_encoders,
    color_run,
    colors,
    own_shop,
    tiny_table,
    tmp_path,
    monkeypatch,
):
    every_command.draw_album(tmp_path / "album")

    def image_features(name, paths, size):
        rng = np.random.default_rng(0)
        return rng.normal(size=(len(paths), 8)).astype(np.float32)

    def text_features(name, texts, length):
        return image_features(name, texts, 0)

    monkeypatch.setattr(categorize.features, "image_features", image_features)
    monkeypatch.setattr(categorize.features, "text_features", text_features)
    return every_command.Inputs(
        color_run,
        colors[0] / "colors.csv",
        own_shop,
        tmp_path / "album",
        tiny_table,
    )


class CallCounter:
    """Counts calls to the package's functions while a command runs.

    Attributes:
      count: the number of calls so far.
    """

    def __init__(self, stop_at: int | None = None):
        self.count, self._stop_at = 0, stop_at

    def __enter__(self) -> "CallCounter":
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame, event, _):
        name = frame.f_globals.get("__name__", "")
        if event != "call" or not name.startswith("mixer_jax."):
            return
        code = frame.f_code
        if name == command_lib.__name__ or code.co_flags & inspect.CO_GENERATOR:
            return
        working = signal.getsignal(signal.SIGINT) is command_lib._interrupt
        if not working or threading.current_thread().daemon:
            return
        self.count += 1
        if self.count == self._stop_at:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)


def forget(inputs, out):
    """Deletes finished measurements, which would not be repeated."""
    kept = [*inputs.shop.rglob(granularity.KEPT)]
    for finished in (*kept, *out.glob(results_log.NAME)):
        finished.unlink()


def outputs(inputs, out):
    """Returns the files that a command may write, with their contents."""
    found = dict(every_command.contents(out.parent))
    found |= dict(every_command.contents(inputs.shop))
    # Each build of an index gets the next number.
    return {re.sub(r"items-\d+", "items", k): one for k, one in found.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted_command_leaves_no_partial_files(
    name, inputs, tmp_path, capsys
):
    command = COMMANDS[name]
    out = tmp_path / "out" / (command.name or "none")
    out.parent.mkdir()
    if name == "data.read":
        out = tmp_path / command.name
    arguments = command.arguments(inputs, out)
    # The second run reuses the programs compiled by the first.
    for _ in range(2):
        forget(inputs, out)
        with CallCounter() as calls:
            assert command.main(arguments) == 0
    total = calls.count
    assert total > 5
    wanted = outputs(inputs, out).keys()
    for moment in MOMENTS:
        capsys.readouterr()
        forget(inputs, out)
        with CallCounter(stop_at=1 + round(moment * (total - 6))):
            assert command.main(arguments) == command_lib.INTERRUPTED, moment
        error = capsys.readouterr().err
        assert error.splitlines()[-1] == command_lib.INTERRUPTION
        assert "Traceback" not in error
        left = outputs(inputs, out).keys() - wanted
        assert not [name for name in left if "draft" in name], left
        assert not [name for name in left if "generation" in name], left
    if out.is_dir():
        shutil.rmtree(out)
    assert command.main(arguments) == 0
    assert outputs(inputs, out).keys() == wanted


def test_server_is_interrupted_before_and_stopped_while_serving(
    color_run, colors, tmp_path, monkeypatch, capsys
):
    """An interrupt while serving stops the server with exit code 0."""
    arguments = ["build", f"--workdir={color_run}/stage2"]
    arguments.append(f"--out={tmp_path}/index")
    arguments.append(f"--table={colors[0]}/colors.csv")
    assert index.main(arguments) == 0
    arguments = [f"--index={tmp_path}/index", "--port=0"]
    real = server.run

    def run(app, listener):
        stop = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        stop.start()
        try:
            real(app, listener)
        finally:
            # A later signal would end the test process.
            stop.cancel()
            stop.join()

    monkeypatch.setattr(server, "run", run)
    with CallCounter() as calls:
        assert serve.main(arguments) == 0
    total, codes = calls.count, []
    for moment in MOMENTS:
        capsys.readouterr()
        with CallCounter(stop_at=1 + round(moment * (total - 1))):
            codes.append(serve.main(arguments))
        output, error = capsys.readouterr()
        if output.startswith("Serving "):
            assert (codes[-1], error) == (0, ""), moment
            assert output.endswith("Stopped.\n")
        else:
            assert (codes[-1], output) == (command_lib.INTERRUPTED, ""), moment
            assert error == f"{command_lib.INTERRUPTION}\n"
    assert set(codes) == {0, command_lib.INTERRUPTED}
