"""Exit codes and messages of commands, however they end."""

import errno
import logging
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_jax.runtime import command
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raising(error):
    def work():
        raise error

    return work


def test_successful_command_prints_nothing(capsys):
    assert command.run(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


@given(message=st.text(st.characters(codec="utf-8")))
def test_user_error_is_explained_by_its_message(message):
    ending = command.explain(UserError(message))
    assert ending == (f"error: {printable(message)}", command.WRONG)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left"),
            2,
            "No space left; free some space",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "a: Perm"),
        (OSError(errno.EROFS, "Read-only", b"b\xff"), 2, "b\\udcff: Read-only"),
        (OSError(errno.EIO, "Input/output error", "c"), 1, "c: Input/output"),
        (KeyboardInterrupt(), 75, "Interrupted. All files are intact"),
    ],
)
def test_system_errors_and_interrupts_print_one_message(
    error, code, message, capsys
):
    assert command.run(raising(error)) == code
    printed = capsys.readouterr().err
    assert message in printed.encode(errors="backslashreplace").decode()
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), OSError("of a library"), SystemExit(70)]
)
def test_unknown_errors_propagate(error):
    with pytest.raises(type(error)):
        command.run(raising(error))


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_interrupts_and_cleans_up(number, capsys):
    cleaned = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)

    before = signal.getsignal(number)
    assert command.run(work) == command.INTERRUPTED
    assert cleaned
    assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"
    assert signal.getsignal(number) is before


def test_signal_during_object_deletion_is_not_lost(capsys):
    class Deleted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        Deleted()
        time.sleep(60)

    assert command.run(work) == command.INTERRUPTED
    assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"


def test_own_warnings_are_printed_once_without_their_source(capsys):
    def work():
        for file in (command.__file__, command.__file__, "/a/library.py"):
            with warnings.catch_warnings():  # forgets what was shown
                warnings.warn_explicit("Texts\r", UserWarning, file, 1)

    shown = warnings.showwarning
    with pytest.warns(UserWarning, match="Texts") as others:
        assert command.run(work) == 0
    assert capsys.readouterr().err == "warning: Texts\\r\n"
    assert [one.filename for one in others] == ["/a/library.py"]
    assert warnings.showwarning is shown


def test_only_the_command_reports_an_interrupt(capsys):
    """Interrupted threads and failed cleanups print nothing."""

    def fail():
        logging.getLogger("library").error("a callback failed")
        warnings.warn("never awaited", stacklevel=1)
        raise RuntimeError("the event loop is closed")

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            raise UserError("cleanup failed")

    hook, disabled = threading.excepthook, logging.root.manager.disable
    assert command.run(work) == command.INTERRUPTED
    assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"
    assert threading.excepthook is hook
    assert logging.root.manager.disable == disabled


def test_ignored_signals_stay_ignored():
    """`nohup` and scripts ignore signals for background commands."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = command.run(lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done == 0


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_second_signal_ends_the_process_at_once():
    code = """
import signal, time
from mixer_jax.runtime import command
def work():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)
        time.sleep(600)
command.run(work)
"""
    with python(code) as process:
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (75, f"{command.INTERRUPTION}\n")


def test_closed_pipe_is_not_a_crash():
    code = """
import sys
from mixer_jax.runtime import command
def work():
    for _ in range(100_000):
        print("a line")
sys.exit(command.run(work))
"""
    with python(code) as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (command.UNREAD, "")


def test_closed_pipe_of_a_console_is_not_a_crash():
    code = """
import sys
from mixer_jax.runtime import command, terminal
def work():
    for _ in range(100_000):
        terminal.say("a line")
sys.exit(command.run(work))
"""
    with python(code) as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (command.UNREAD, "")


def test_command_without_standard_output_succeeds(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert command.run(lambda: print("a line")) == command.DONE


def test_full_disk_behind_standard_output_is_reported():
    code = """
import sys
from mixer_jax.runtime import command
sys.exit(command.run(lambda: print("a line")))
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_unencodable_names_are_printed_with_escapes():
    code = r"""
import sys
from mixer_jax.runtime import command
sys.exit(command.run(lambda: print("b\udcff \u2019")))
"""
    for encoding in ("utf-8", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        with python(code, env=environment) as process:
            output, error = process.communicate()
        assert (process.returncode, error) == (0, "")
        assert output.startswith(r"b\udcff ")


COMMANDS = (
    *("main", "compile_for_tpu", "categorize", "embed", "evaluate", "export"),
    *("index", "report", "serve", "sweep", "data.check", "data.read"),
    *("demo.emoji", "demo.furniture", "demo.icons", "demo.simulate"),
    "categories.aggregate",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_can_be_interrupted_during_imports(name, tmp_path):
    """An interrupted import prints no traceback and writes no files."""
    with subprocess.Popen(
        [sys.executable, "-v", "-m", f"mixer_jax.{name}", "--help"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # `-v` prints each import. At these lines, the signal handlers are
        # installed, but most modules are not imported yet.
        for line in process.stderr:
            if line.startswith("import 'argparse'") or "'absl" in line:
                process.send_signal(signal.SIGINT)
                break
        error = process.stderr.read()
    assert process.returncode == command.INTERRUPTED, error[-2000:]
    assert error.count(command.INTERRUPTION) == 1
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_other_programs_keep_their_signal_handlers():
    code = """
import signal, mixer_jax
from mixer_jax.runtime import command
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == 0


def test_signal_at_interpreter_exit_keeps_the_exit_code():
    # Module globals are deleted after Python stops calling handlers.
    script = """
import os, signal, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "mixer_jax.any"]
from mixer_jax.runtime import command
command.catch_early()
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGTERM):
        kill(own, number)
sys.late = Late()
sys.exit(command.run(lambda: None))
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == 0


def test_interrupt_does_not_wait_for_a_compilation():
    # XLA keeps compiling in a thread that uses the device client.
    script = """
import os, signal, sys, threading
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "mixer_jax.any"]
from mixer_jax.runtime import command
command.catch_early()
import jax, jax.numpy as jnp
jax.config.update("jax_enable_compilation_cache", False)
def chain(x):
    for _ in range(800):
        x = jnp.sort(jnp.sin(x))[::-1]
    return x
def work():
    program = jax.jit(chain).lower(jnp.zeros(50))
    stop = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    stop.start()
    program.compile()
code = command.run(work)
print("unwritten", end="")
sys.exit(code)
"""
    with python(script) as process:
        output, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (75, f"{command.INTERRUPTION}\n")
    assert output == "unwritten"


_AT_EVERY_CALL = r"""
import os, signal, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "mixer_jax.any"]
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime import command
command.catch_early()

def work():
    if sys.argv[1] == "interrupted":
        signal.raise_signal(signal.SIGINT)
    if sys.argv[1] == "wrong":
        raise UserError("wrong")

def end():
    if sys.argv[1] == "early":
        signal.raise_signal(signal.SIGTERM)
    sys.exit(command.run(work))

def signalling(moment):
    calls = 0
    def profile(frame, event, _):
        nonlocal calls
        if frame.f_globals.get("__name__") != command.__name__:
            return
        calls += 1
        if calls >= moment:
            sys.setprofile(None)
            os.write(3, b"!")
            os.kill(os.getpid(), signal.SIGTERM)
    return profile

sys.argv = sys.argv + [os.environ["KIND"]]
sys.setprofile(signalling(int(os.environ["MOMENT"])))
end()
"""


@pytest.mark.parametrize(
    ("kind", "endings"),
    [
        ("early", {(75, f"{command.INTERRUPTION}\n")}),
        ("interrupted", {(75, f"{command.INTERRUPTION}\n")}),
        ("wrong", {(75, f"{command.INTERRUPTION}\n"), (2, "error: wrong\n")}),
        ("done", {(75, f"{command.INTERRUPTION}\n"), (0, "")}),
    ],
)
def test_second_signal_at_any_call_keeps_the_outcome(kind, endings):
    """Exactly one message is printed, no matter when further signals arrive."""
    found, moment, sent = set(), 0, True
    while sent:
        moment += 1
        reader, writer = os.pipe()
        environment = os.environ | {"KIND": kind, "MOMENT": str(moment)}
        with python(
            f"import os; os.dup2({writer}, 3)\n{_AT_EVERY_CALL}",
            env=environment,
            pass_fds=[writer],
        ) as process:
            os.close(writer)
            _, error = process.communicate(timeout=60)
        with open(reader, "rb") as sent_file:
            sent = bool(sent_file.read())
        found.add((process.returncode, error))
        assert found <= endings, moment
    assert moment > 3
    assert found == endings


def test_command_outlives_its_terminal():
    script = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
pipe = int(sys.argv[1])
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "mixer_jax.any"]
from mixer_jax.runtime import command
command.catch_early()
def work():
    print("begins")
    sys.stdin.read()
    for _ in range(3):
        print("continues", flush=True)
        print("warning", file=sys.stderr)
    os.write(pipe, b"done")
sys.exit(command.run(work))
"""
    reader, writer = os.pipe()
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script, f"{writer}"],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
        pass_fds=[writer],
    ) as process:
        os.close(terminal)
        os.close(writer)
        assert os.read(ours, 100).startswith(b"begins")
        os.close(ours)
        process.stdin.close()
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == b"done"
    assert process.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_opened_files_do_not_replace_closed_streams(closed, tmp_path):
    script = f"""
import os, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "mixer_jax.any"]
from mixer_jax.runtime import command
command.catch_early()
def work():
    with open({str(tmp_path / "file")!r}, "w") as file:
        print("printed")
        for number in (1, 2):
            os.write(number, b"a library's message")
        assert file.fileno() > 2
sys.exit(command.run(work))
"""
    words = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable]
    ended = subprocess.run([*words, "-c", script], capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "file").read_bytes() == b""


def test_unknown_jax_platform_is_an_error():
    unknown = RuntimeError(
        "Unable to initialize backend 'gpux': Backend 'gpux' is not in the "
        "list of known backends: ['cpu'].\n(set JAX_PLATFORMS='')"
    )
    message, code = command.explain(unknown)
    assert code == command.WRONG
    assert message.startswith("error: JAX cannot start: Unable to")
    assert "\n" not in message
    busy = RuntimeError("Unable to initialize backend 'cuda': it is in use")
    assert command.explain(busy).code == command.CRASHED
    assert command.explain(RuntimeError("a bug")) is None


def test_missing_temporary_folder_is_an_error(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(FileNotFoundError) as error:
        tempfile.gettempdir()
    ending = command.explain(error.value)
    assert ending.code == command.WRONG
    assert "set TMPDIR to a writable folder" in ending.message
