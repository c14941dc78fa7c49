"""Runs of several processes, which start, communicate and end together.

On TPU VM pods, on GKE's TPU slices and under Slurm, JAX finds the other
processes by itself. Elsewhere each process needs the address of process 0, the
number of processes and its own index. A single process needs none of this and
has no overhead.

Messages to processes that are waiting in the middle of a computation go through
the key-value store of JAX's coordination service, on process 0.

Exit codes are those of `runtime.command`, and the same for all processes.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax
from jax._src import distributed, xla_bridge
from jax.experimental import multihost_utils

from mixer_jax.runtime import command, parsing
from mixer_jax.runtime.errors import UserError

# Seconds to wait for processes whose work may take days; a lost process ends
# the wait.
PATIENCE = 30 * 86400.0
WRONG, HUNG = command.WRONG, command.HUNG
PREEMPTED = command.INTERRUPTED

_POLL = 0.5  # seconds between checks for a process that has ended the run
_ACTION_TIMEOUT = 2.0  # seconds to wait for each action of `leaving`
_ECHO = 3.0  # seconds to wait for another process's message
_PREFIX = "mixer_jax"
_END = f"{_PREFIX}/end"
_HEARD = f"{_PREFIX}/heard"
_MEETINGS = itertools.count()
_OVER = threading.Event()  # set when this process stops listening
_LEAVING: list[Callable[[], None]] = []  # see `leaving`


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the other processes of this run, if there are any.

    Call this before any use of JAX's devices.

    Args:
      coordinator: HOST:PORT where process 0 listens; "" to detect it.
      processes: the number of processes; 0 to detect it.
      process: the index of this process, from 0; -1 to detect it.

    Raises:
      UserError: if only some of these values are given or detected.
      SystemExit: if other processes do not connect in time; a restart may help.
    """
    given = (bool(coordinator), processes > 0, process >= 0)
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=I must be "
            "used together: the address of process 0, the number of "
            "processes, and the index of this process, from 0."
        )
    if process >= processes > 0:
        raise UserError(
            f"--process={process} is out of range for --processes={processes}; "
            "processes are numbered from 0."
        )
    port = coordinator.rpartition(":")[2]
    if coordinator and not (
        coordinator.removesuffix(f":{port}") not in ("", coordinator)
        and port.isascii()
        and port.isdecimal()
        and 0 < int(port) < 2**16
    ):
        raise UserError(
            f"--coordinator is {coordinator!r}; it must be HOST:PORT, such "
            "as host0:1234, with a port from 1 to 65535."
        )
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, processes, process)
        else:
            jax.distributed.initialize()
    except ValueError as error:
        # JAX raises this if it detects no cluster. After any other error,
        # continuing as a single process could start many runs in one workdir.
        if not coordinator and "coordinator_address" in str(error):
            return
        raise UserError(
            f"The processes of this run cannot find each other: {error} Set "
            "--coordinator=HOST:PORT, --processes=N and --process=I."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        print(
            f"error: process {process} of {processes} could not connect to "
            f"the others at {coordinator}: {_first_line(error)}",
            file=sys.stderr,
        )
        raise SystemExit(command.CRASHED) from error
    if place()[1] > 1:
        threading.Thread(target=_listen, args=(_OVER,), daemon=True).start()
    else:
        # JAX's service now handles SIGTERM. A single process never polls the
        # service, so the signal would be lost outside of a `Preemption` block.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def run_command(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a command in this process and the others started with it.

    Args:
      main: the command's body, called with the parsed arguments; see `run`.
      parser: the command's parser; options for the processes are added.
      arguments: the command line; by default, that of this process.

    Returns:
      The exit code; see `command.run`.
    """
    parsing.add_processes(parser)
    return run_parsed(main, parser.parse_args(arguments))


def run_parsed(
    main: Callable[[argparse.Namespace], None], given: argparse.Namespace
) -> int:
    """Like `run_command`, but takes parsed arguments."""
    return command.run(lambda: _join(lambda: main(given), given))


def _join(main: Callable[[], None], given: argparse.Namespace) -> None:
    """Joins the other processes, then runs `main` in all of them.

    A caller that has used JAX before, such as a notebook, runs `main` alone.
    """
    asked = given.coordinator or given.processes or given.process >= 0
    if not asked and xla_bridge.backends_are_initialized():
        main()
        return
    start(given.coordinator, given.processes, given.process)
    # JAX's service now handles SIGTERM, but only training polls it.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    run(main)


def run(main: Callable[[], None]) -> None:
    """Runs `main` in every process; an error in one ends all of them.

    A single process just runs it. Several processes wait for each other before
    and after. If one fails, it sends its message to the others, which print it
    and end with the same exit code.
    """
    if place()[1] == 1:
        main()
        return
    try:
        barrier("start")
        main()
        _part(0)
    except SystemExit as ended:
        # Raised only if all processes agree to end.
        _part(ended.code)
    except BaseException as error:
        ending = command.explain(error)
        if ending is not None:
            command.say(ending)
            end_all(ending.message.removeprefix("error: "), ending.code)
        # Another process may have caused the error: wait for its message.
        time.sleep(_ECHO)
        traceback.print_exc()
        message = f"{type(error).__name__}: {_first_line(error)}"
        end_all(message, command.CRASHED)


def place() -> tuple[int, int]:
    """Returns this process's index and the number of processes.

    Unlike JAX's functions, does not initialize any device.
    """
    state = distributed.global_state
    return state.process_id or 0, state.num_processes or 1


def end_all(message: str, code: int) -> NoReturn:
    """Ends this process and all others, which print the message."""
    if place()[1] > 1:
        index = place()[0]
        ending = {"process": index, "code": code, "message": message}
        # Fails if another process has already ended the run.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().key_value_set(_END, json.dumps(ending))
        _hear()
    _leave(code)


def barrier(name: str, seconds: float = 3600.0) -> None:
    """Waits until all processes have called this; uses no device."""
    if place()[1] > 1:
        # All processes call this in the same order, so the numbers agree.
        name = f"{_PREFIX}/{name}/{next(_MEETINGS)}"
        _client().wait_at_barrier(name, int(1000 * seconds))


def tell(name: str, value: Any) -> None:
    """Publishes a JSON value of this process; replaces the previous one."""
    if place()[1] > 1:
        _client().key_value_set(
            f"{_PREFIX}/{name}/{place()[0]}",
            json.dumps(value),
            allow_overwrite=True,
        )


def told(name: str) -> dict[int, Any]:
    """Returns the values published under a name, by process; never waits."""
    if place()[1] == 1:
        return {}
    found = _client().key_value_dir_get(f"{_PREFIX}/{name}")
    return {int(key.rsplit("/", 1)[1]): json.loads(x) for key, x in found}


def gather(name: str, value: Any) -> list[Any]:
    """Returns the JSON values of all processes in order; waits for all."""
    if place()[1] == 1:
        return [value]
    tell(name, value)
    barrier(name)
    values = told(name)
    barrier(name)  # before any process publishes its next value
    return [values[index] for index in range(place()[1])]


@contextlib.contextmanager
def leaving(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` if `end_all` ends the process during the block.

    `end_all` does not unwind the stack.
    """
    _LEAVING.append(action)
    try:
        yield
    finally:
        _LEAVING.remove(action)


def raised_by_devices(error: Exception) -> bool:
    """Returns whether a computation failed, as when another process died.

    JAX may raise a `ValueError` for this, but TensorStore also raises one for
    a file. If JAX raised it, the innermost Python frame is in a module of JAX.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    jaxs = frame.f_globals["__name__"].startswith("jax.")
    return jaxs and isinstance(error, ValueError)


class Preemption:
    """Context manager that detects a request to stop: SIGTERM or Ctrl-C.

    A machine that is about to be preempted sends SIGTERM. If one process gets
    the signal, all processes stop before the same step. Within the context, the
    first signal does not end the process, which must call `reached` and leave
    the context by itself. If it leaves without having called `reached` since
    the signal, `command.Interrupted` is raised, so that no further work begins.
    """

    _asked = itertools.count()  # shared by all instances in this process

    def __init__(self):
        self._noticed = self._answered = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if not _is_main_thread():
            return self
        alone = jax.process_count() == 1
        for number in command.SIGNALS:
            handler = signal.getsignal(number)
            if number == signal.SIGTERM:
                # With several processes, JAX's own service handles it.
                if alone:
                    self._before[number] = signal.signal(number, self._notice)
            elif handler != signal.SIG_IGN:
                notice = self._notice if alone else self._pass_on
                self._before[number] = signal.signal(number, notice)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if kind is None and self._noticed and not self._answered:
            raise command.Interrupted

    def reached(self) -> bool:
        """Returns whether to stop; all processes call it before each step."""
        if jax.process_count() == 1:
            self._answered = self._noticed
            return self._noticed
        # The numbers continue from stage to stage. Otherwise, after a signal
        # between two stages, processes would wait for a step that has passed.
        return multihost_utils.reached_preemption_sync_point(next(self._asked))

    def ask(self) -> None:
        """Stops the run in all its processes, as a signal would."""
        if not self._noticed:
            self._noticed = True
            if jax.process_count() > 1:
                signal.raise_signal(signal.SIGTERM)

    def _notice(self, *_: object) -> None:
        self._noticed = True
        # A second signal ends the process at once.
        for number in self._before:
            signal.signal(number, command.leave)

    def _pass_on(self, *_: object) -> None:
        for number in self._before:
            signal.signal(number, command.leave)
        signal.raise_signal(signal.SIGTERM)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _client() -> Any:
    # JAX has no public interface to its key-value store; JAX's own libraries
    # use this private one, too.
    return distributed.global_state.client


def _listen(over: threading.Event) -> None:
    """Ends this process when another process has called `end_all`."""
    while not over.wait(_POLL):
        try:
            ending = json.loads(_client().key_value_try_get(_END))
        except jax.errors.JaxRuntimeError:
            continue  # No message yet; JAX reports the loss of process 0.
        if ending["process"] == place()[0]:
            return
        print(
            f"error: process {ending['process']} ended the run: "
            f"{ending['message']}",
            file=sys.stderr,
        )
        _hear()
        _leave(ending["code"])


def _hear() -> None:
    """Acknowledges the end of the run; process 0 waits for all others."""
    client, index = _client(), place()[0]
    deadline = time.monotonic() + 10 * _POLL
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{_HEARD}/{index}", "", allow_overwrite=True)
        # The store ends with process 0; JAX then aborts the other processes.
        while index == 0 and time.monotonic() < deadline:
            if len(client.key_value_dir_get(_HEARD)) == place()[1]:
                time.sleep(_POLL)
                break
            time.sleep(_POLL / 5)


def _part(code: int) -> NoReturn:
    """Ends this process together with all others."""
    barrier("end", PATIENCE)
    _OVER.set()
    jax.distributed.shutdown()
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for the others."""
    for action in _LEAVING:
        # An action that hangs, such as on a network file system, must not keep
        # the process alive.
        thread = threading.Thread(target=action, daemon=True)
        thread.start()
        thread.join(_ACTION_TIMEOUT)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
