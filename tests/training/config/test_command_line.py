"""Exit codes and output of commands; wrong flags are tested elsewhere."""

import os
import subprocess
import sys

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import command_line


@pytest.fixture
def run(monkeypatch):
    """Runs a command's main with positional arguments."""

    def run(main, *left):
        monkeypatch.setattr(
            command_line.app,
            "run",
            lambda checked, flags_parser: sys.exit(checked(["command", *left])),
        )
        command_line.run(main)

    return run


def test_user_errors_are_printed_on_one_line(run, capsys):
    def main():
        raise UserError("The table is empty.")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: The table is empty.\n"


def test_positional_arguments_are_rejected(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run(lambda: None, "train")
    assert caught.value.code == 2
    assert "'train'" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def run_module(command, flag):
    return subprocess.run(
        [sys.executable, "-m", f"mixer_jax.{command}", flag],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["main", "compile_for_tpu"])
def test_missing_flagfile_is_reported_without_traceback(command):
    ended = run_module(command, "--flagfile=nowhere")
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_line_breaks_in_arguments_are_rejected():
    ended = run_module("main", "--workdir=a\nWrote b")
    assert ended.returncode == 2
    expected = (
        r"error: The argument '--workdir=a\nWrote b' contains a line break."
    )
    assert ended.stderr == f"{expected}\n"


@pytest.mark.slow
def test_help_with_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        ended = subprocess.run(
            [sys.executable, "-m", "mixer_jax.main", "--help"],
            stdout=output,
            stderr=subprocess.PIPE,
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_output_of_a_config_file_is_shown(monkeypatch, capsys):
    def parse(argv):
        print("loading")
        return argv

    monkeypatch.setattr(command_line.arguments, "parse", parse)
    assert command_line._parse(["command"]) == ["command"]
    assert capsys.readouterr().out == "loading\n"
