"""Runs commands: exit codes, interrupts and error messages.

Exit codes of every command:

    0    success; also for a server that was asked to stop
    1    a crash, with its traceback, or a temporary system error; the same
         command may succeed when repeated
    2    wrong input, or a destination that cannot be written: the same command
         would fail again
    70   a training run that made no progress
    75   interrupted by Ctrl-C, SIGTERM or SIGHUP; the same command resumes
    141  standard output was closed by its reader

This module imports nothing but the standard library, so that a command can be
interrupted while its libraries are still being imported.
"""

import atexit
import contextlib
import errno
import io
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.text import printable

DONE, CRASHED, WRONG, HUNG, INTERRUPTED = 0, 1, 2, 70, 75
UNREAD = 128 + signal.SIGPIPE  # the exit code that shells report for SIGPIPE

INTERRUPTION = "Interrupted. All files are intact; rerun the command to resume."
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Transient system errors, as on network file systems: a restart may succeed.
TRANSIENT = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOTCONN,
}
_NO_DEVICE = "Unable to initialize backend"  # part of JAX's error message
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_RETRY = 0.05  # seconds until a lost interrupt is sent again
_ended: int | None = None  # the exit code, once the command's work is over
_interrupted = False
_is_process = False  # whether this process runs one of our commands
_printed = threading.Lock()  # held once the final message is printed


class Interrupted(KeyboardInterrupt):
    """Raised when a signal asks the command to stop."""


class Ending(NamedTuple):
    """The outcome of a command that failed or was interrupted.

    Attributes:
      message: a sentence for the user.
      code: the exit code.
    """

    message: str
    code: int


def run(work: Callable[[], None]) -> int:
    """Runs the body of a command and returns its exit code.

    The first signal interrupts the command, and unfinished files are removed.
    A second signal ends the process at once.

    Args:
      work: the command's body; raises `UserError` for errors the user can fix.

    Returns:
      The exit code. Errors known to `explain` are printed to standard error.

    Raises:
      BaseException: any error unknown to `explain`, and `SystemExit`.
    """
    global _ended, _interrupted, _printed
    _interrupted, _printed = False, threading.Lock()
    for stream in (sys.stdout, sys.stderr):
        # Invalid characters, as in some file names, are escaped.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = None
    try:
        with interruptible(), _brief_warnings():
            code = _run(work)
    except SystemExit as ended:
        code = ended.code or DONE
        raise
    except Interrupted:  # raised before the work began or after it ended
        if code is None:
            code = _finish(Ending(INTERRUPTION, INTERRUPTED))
    finally:
        _ended = CRASHED if code is None else code
        if _is_process and code == INTERRUPTED:
            atexit.register(_leave_objects)  # runs before earlier handlers
    return code


def _run(work: Callable[[], None]) -> int:
    try:
        work()
        if sys.stdout is not None:  # None if the shell closed it: >&-
            sys.stdout.flush()
        return DONE
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _is_closed_by_reader():
            return UNREAD
        # After an interrupt, the error may be a side effect of the cleanup.
        ending = explain(KeyboardInterrupt() if _interrupted else error)
        if ending is None:
            raise
        return _finish(ending)


def _finish(ending: Ending) -> int:
    """Prints the final message unless one was printed; returns the exit code.

    An interrupt may arrive while an error message is being printed.
    """
    _leave_at_next()
    if _printed.acquire(blocking=False):
        say(ending)
    return ending.code


def explain(error: BaseException) -> Ending | None:
    """Returns the message and exit code of an error; None for a crash."""
    if isinstance(error, UserError):
        code = CRASHED if isinstance(error, PassingError) else WRONG
        return Ending(f"error: {error}", code)
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTION, INTERRUPTED)
    if isinstance(error, RuntimeError) and _NO_DEVICE in str(error):
        # A busy device may be free later; an unknown name will fail again.
        code = WRONG if "list of known backends" in str(error) else CRASHED
        return Ending(
            f"error: JAX cannot start: {' '.join(str(error).split())}", code
        )
    if isinstance(error, OSError) and error.strerror:
        if error.strerror.startswith("No usable temporary directory"):
            hint = "set TMPDIR to a writable folder"
            return Ending(f"error: {error.strerror}; {hint}.", WRONG)
        if error.filename is None and error.errno not in NO_ROOM:
            return None
        where = error.filename
        if isinstance(where, bytes):
            where = os.fsdecode(where)
        subject = "The output" if where is None else f"{where}"
        hint = "; free some space" if error.errno in NO_ROOM else ""
        code = CRASHED if error.errno in TRANSIENT else WRONG
        return Ending(f"error: {subject}: {error.strerror}{hint}.", code)
    return None


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def say(ending: Ending) -> None:
    """Prints the message to standard error, which may be closed."""
    with contextlib.suppress(OSError):
        print(ending.message, file=sys.stderr, flush=True)


def _is_closed_by_reader() -> bool:
    """Returns whether standard output is a pipe without a reader."""
    try:
        file = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(file, 0)  # POLLERR is always reported.
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python flushes the stream at exit and would report the error again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), file)
    return True


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises `Interrupted` on SIGINT, SIGTERM and SIGHUP.

    Ignored signals stay ignored: `nohup` and shells use this for programs that
    must survive a closed terminal, or a Ctrl-C meant for another program.
    SIGTERM is sent to this process alone and is always handled.
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
        with _not_ignored(), _quiet():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _not_ignored() -> Iterator[None]:
    """Sends an interrupt again if Python ignored the exception.

    Python ignores exceptions raised in `__del__` and weak reference callbacks.
    """
    before, again = sys.unraisablehook, []

    def hook(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, Interrupted):
            if not _interrupted:
                before(ignored)
            return
        for number in SIGNALS:
            if signal.getsignal(number) is leave:
                signal.signal(number, _interrupt)
        timer = threading.Timer(_RETRY, os.kill, (os.getpid(), signal.SIGTERM))
        again.append(timer)
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if not _is_process:
            sys.unraisablehook = before
        for timer in again:
            timer.cancel()
            timer.join()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the errors of threads cut off by an interrupt."""
    before, disabled = threading.excepthook, logging.root.manager.disable
    with warnings.catch_warnings():
        try:
            yield
        finally:
            if not _is_process:
                threading.excepthook = before
                logging.disable(disabled)


@contextlib.contextmanager
def _brief_warnings() -> Iterator[None]:
    """Prints each of our own warnings once, without file and source line."""
    before, printed = warnings.showwarning, set[str]()

    def show(message: Any, category: Any, file: str, *rest: Any) -> None:
        if category is not UserWarning or not file.startswith(_PACKAGE):
            before(message, category, file, *rest)
        elif (text := printable(str(message))) not in printed:
            printed.add(text)
            say(Ending(f"warning: {text}", DONE))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _interrupt(*_: object) -> NoReturn:
    global _interrupted
    _interrupted = True
    threading.excepthook = lambda _: None
    logging.disable()
    warnings.simplefilter("ignore")
    _leave_at_next()
    raise Interrupted


def _leave_at_next() -> None:
    """Makes the next signal end the process instead of raising an error."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, leave)


def catch_early() -> None:
    """Installs `leave` while a `python -m mixer_jax...` command is imported.

    Does nothing in other programs.
    """
    is_ours = any(
        word.removeprefix("-m").startswith("mixer_jax.")
        for word in sys.orig_argv[1:]
    )
    if sys.argv[:1] != ["-m"] or not is_ours:
        return
    global _is_process
    _is_process = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    _occupy_closed()
    _outlive_terminal()
    # The function registered first runs last.
    atexit.register(_ignore_signals)


def _occupy_closed() -> None:
    """Opens /dev/null in place of standard streams closed by the shell.

    A shell closes standard error for `2>&-`, for example. A file opened later
    would then get its descriptor, and error messages would be written to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor
            os.set_inheritable(number, True)


class _Terminal(io.FileIO):
    """Terminal output that is discarded once the terminal is closed.

    A command in the background outlives its terminal: it gets no SIGHUP, or
    ignores it, and must not fail when it prints.
    """

    def write(self, content: Any) -> int:
        """Writes bytes; returns the number written or discarded."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(content)


def _outlive_terminal() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or not stream.isatty():
            continue
        raw = _Terminal(stream.fileno(), "w", closefd=False)
        text = io.TextIOWrapper(
            io.BufferedWriter(raw),
            stream.encoding,
            stream.errors,
            line_buffering=True,
        )
        setattr(sys, name, text)


def _ignore_signals() -> None:
    """Ignores signals, so that the process keeps the command's exit code.

    The interpreter removes the handlers on exit; a signal would then kill it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _leave_objects() -> NoReturn:
    """Ends the process without deleting its objects.

    After an interrupt during a compilation, XLA continues to compile in a
    thread. Deleting XLA's client waits minutes for that thread, which crashes
    when it uses the client.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)


def leave(*_: object) -> None:
    """Signal handler that ends the process at once.

    A signal may arrive during this handler, or while the command ends.
    """
    if _ended is not None:
        os._exit(_ended)
    if not _printed.acquire(blocking=False):
        return  # The interrupted code prints the message, then exits.
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTION}\n".encode())
    os._exit(INTERRUPTED)
