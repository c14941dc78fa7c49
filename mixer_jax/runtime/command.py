"""Runs a command: exit codes, interrupts, and a sentence for every failure.

Exit codes of every command:

    0    done
    1    a crash, with its traceback; the same command may go on
    2    wrong input, or a destination that cannot be written: the same command
         would fail again
    70   a training run that stood still
    75   interrupted by Ctrl-C, SIGTERM or a hang-up; the same command goes on
    141  nobody reads standard output any more

This module imports nothing but the standard library, so that a command can be
interrupted while its libraries are still being imported.
"""

import atexit
import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from mixer_jax.errors import UserError

DONE, CRASHED, WRONG, HUNG, INTERRUPTED = 0, 1, 2, 70, 75
UNREAD = 128 + signal.SIGPIPE  # as a shell reports a program that it ended

INTERRUPTION = "Interrupted: nothing is half-written; the same command goes on."
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Failures of the system that a restart may mend, as on network file systems.
_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOTCONN,
}
_AGAIN = 0.05  # seconds until an interrupt that was lost is tried again
_ended: int | None = None  # the exit code, once the command's work is over


class Interrupted(KeyboardInterrupt):
    """A signal has asked the command to stop."""


class Ending(NamedTuple):
    """How a command ends that did not do all its work.

    Attributes:
      message: a sentence for the person who runs it.
      code: its exit code.
    """

    message: str
    code: int


def run(work: Callable[[], None]) -> int:
    """Does a command's work.

    A first signal interrupts it; what the work has begun to write is removed.
    A second one ends the process at once.

    Args:
      work: of the command; raises `UserError` for whatever its user can mend.

    Returns:
      The exit code. What `explain` knows is printed to standard error.

    Raises:
      BaseException: whatever `explain` does not know, and `SystemExit`.
    """
    global _ended
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be valid text; they are printed all the same.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = CRASHED
    try:
        with interruptible():
            code = _run(work)
    finally:
        _ended = code
    return code


def _run(work: Callable[[], None]) -> int:
    try:
        work()
        sys.stdout.flush()
        return DONE
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return UNREAD
        ending = explain(error)
        if ending is None:
            raise
        say(ending)
        return ending.code


def explain(error: BaseException) -> Ending | None:
    """Returns what to say of an error and its exit code; None of a crash."""
    if isinstance(error, UserError):
        return Ending(f"error: {error}", WRONG)
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTION, INTERRUPTED)
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno not in NO_ROOM:
            return None
        where = error.filename
        if isinstance(where, bytes):
            where = os.fsdecode(where)
        what = "The output" if where is None else f"{where}"
        hint = "; make room" if error.errno in NO_ROOM else ""
        code = CRASHED if error.errno in _PASSING else WRONG
        return Ending(f"error: {what}: {error.strerror}{hint}.", code)
    return None


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def say(ending: Ending) -> None:
    """Prints how a command ends to standard error."""
    # Nobody may read that either.
    with contextlib.suppress(OSError):
        print(ending.message, file=sys.stderr, flush=True)


def _is_unread() -> bool:
    """Returns whether standard output is a pipe without a reader."""
    try:
        file = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(file, 0)  # Errors are reported without being asked for.
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python flushes the stream as it ends, and would report the error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), file)
    return True


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns the signals that ask for an end into `Interrupted`.

    Signals that are ignored stay so: `nohup` and shells start programs in this
    way, which are to survive a closed terminal and a Ctrl-C for another one.
    SIGTERM is meant for this process and always counts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is signal.SIG_IGN and number != signal.SIGTERM:
            continue
        before[number] = handler
        signal.signal(number, _interrupt)
    try:
        with _not_ignored():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _not_ignored() -> Iterator[None]:
    """Interrupts again where Python ignores the exception.

    It ignores what is raised while an object is being deleted.
    """
    before, again = sys.unraisablehook, []

    def hook(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, Interrupted):
            before(ignored)
            return
        for number in SIGNALS:
            if signal.getsignal(number) is leave:
                signal.signal(number, _interrupt)
        timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGTERM))
        again.append(timer)
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()
            timer.join()


def _interrupt(*_: object) -> NoReturn:
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, leave)
    raise Interrupted


def catch_early() -> None:
    """Lets a signal end a command of ours while its libraries are imported.

    Does nothing in any other program.
    """
    is_ours = any(
        word.removeprefix("-m").startswith("mixer_jax.")
        for word in sys.orig_argv[1:]
    )
    if sys.argv[:1] != ["-m"] or not is_ours:
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    # The first to be registered is the last to run.
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    """Lets the interpreter end by itself, with the command's exit code.

    It gives up the handlers while it ends; a signal would kill it then.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(*_: object) -> NoReturn:
    """Ends the process at once; a signal's handler."""
    if _ended is not None:
        os._exit(_ended)
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTION}\n".encode())
    os._exit(INTERRUPTED)
