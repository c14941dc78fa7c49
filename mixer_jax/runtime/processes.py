"""Several processes that are one run: they start, agree and end together.

On TPU VM pods, GKE's TPU slices and under Slurm JAX finds the others by
itself; elsewhere a process is told where process 0 is, how many there are and
which one it is. A lone process needs nothing, and all of this costs it
nothing.

What one process has to say to the others while these wait for it in the middle
of a computation goes through the key-value store of JAX's coordination
service, which process 0 holds.

Exit codes are those of `runtime.command`, and the same for all processes.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from mixer_jax.runtime import command
from mixer_jax.runtime.errors import UserError

WRONG, HUNG = command.WRONG, command.HUNG
PREEMPTED = command.INTERRUPTED

_POLL = 0.5  # seconds between two looks for an end
_ACTION_TIMEOUT = 2.0  # seconds to wait for each action of `leaving`
_ECHO = 3.0  # seconds that the reason of another's end may take to arrive
_PREFIX = "mixer_jax"
_END = f"{_PREFIX}/end"
_HEARD = f"{_PREFIX}/heard"
_MEETINGS = itertools.count()
_OVER = threading.Event()  # set when this process needs to hear no more
_LEAVING: list[Callable[[], None]] = []  # see `leaving`


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the other processes of this run, if there are any.

    Call it before anything asks JAX for a device.

    Args:
      coordinator: HOST:PORT where process 0 listens; "" is found out.
      processes: how many there are; 0 is found out.
      process: which one this is, from 0; -1 is found out.

    Raises:
      UserError: if only some of these are given, or found out.
      SystemExit: if the others do not come in time, which a restart may mend.
    """
    given = (bool(coordinator), processes > 0, process >= 0)
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=I go "
            "together: where process 0 listens, how many there are, and which "
            "one this is, from 0."
        )
    if process >= processes > 0:
        raise UserError(
            f"--process={process} is none of --processes={processes}; they "
            "count from 0."
        )
    port = coordinator.rpartition(":")[2]
    if coordinator and not (
        coordinator.removesuffix(f":{port}") not in ("", coordinator)
        and port.isascii()
        and port.isdecimal()
        and 0 < int(port) < 2**16
    ):
        raise UserError(
            f"--coordinator is {coordinator!r}; it must be HOST:PORT, as "
            "host0:1234, with a port from 1 to 65535."
        )
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, processes, process)
        else:
            jax.distributed.initialize()
    except ValueError as error:
        # What JAX says where there is no sign of others. Anything else is half
        # a sign; to go on alone would be many runs in one workdir.
        if not coordinator and "coordinator_address" in str(error):
            return
        raise UserError(
            f"The processes of this run cannot find each other: {error} Name "
            "them by --coordinator=HOST:PORT, --processes=N and --process=I."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        print(
            f"error: process {process} of {processes} has not met the others "
            f"at {coordinator}: {_first_line(error)}",
            file=sys.stderr,
        )
        raise SystemExit(command.CRASHED) from error
    if jax.process_count() > 1:
        threading.Thread(target=_listen, args=(_OVER,), daemon=True).start()
    else:
        # JAX's service catches SIGTERM now, but a lone process never asks it:
        # the signal would be lost wherever no `Preemption` is entered.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def run(main: Callable[[], None]) -> None:
    """Runs `main` in every process; what ends one of them ends all.

    A lone process just runs it. Of several each waits for all others before
    and after, and one that fails tells the others why, which then say so and
    end with the same exit code.
    """
    if jax.process_count() == 1:
        main()
        return
    try:
        barrier("start")
        main()
        _part(0)
    except SystemExit as ended:
        # Only what all processes agree on ends one in this way.
        _part(ended.code)
    except BaseException as error:
        ending = command.explain(error)
        if ending is not None:
            command.say(ending)
            end_all(ending.message.removeprefix("error: "), ending.code)
        # Perhaps it is the echo of another's end: hear that one first.
        time.sleep(_ECHO)
        traceback.print_exc()
        message = f"{type(error).__name__}: {_first_line(error)}"
        end_all(message, command.CRASHED)


def end_all(message: str, code: int) -> NoReturn:
    """Ends this process and all others, which print the message."""
    if jax.process_count() > 1:
        index = jax.process_index()
        said = {"process": index, "code": code, "message": message}
        # It fails where another process ends all for a reason of its own.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().key_value_set(_END, json.dumps(said))
        _hear()
    _leave(code)


def barrier(name: str, seconds: float = 3600.0) -> None:
    """Waits until every process is here; no device is involved."""
    if jax.process_count() > 1:
        # All processes meet in the same order, so that they number alike.
        name = f"{_PREFIX}/{name}/{next(_MEETINGS)}"
        _client().wait_at_barrier(name, int(1000 * seconds))


def tell(name: str, value: Any) -> None:
    """Leaves a JSON value of this process, in place of one of that name."""
    if jax.process_count() > 1:
        _client().key_value_set(
            f"{_PREFIX}/{name}/{jax.process_index()}",
            json.dumps(value),
            allow_overwrite=True,
        )


def told(name: str) -> dict[int, Any]:
    """Returns what the processes have left by that name, without waiting."""
    if jax.process_count() == 1:
        return {}
    found = _client().key_value_dir_get(f"{_PREFIX}/{name}")
    return {int(key.rsplit("/", 1)[1]): json.loads(x) for key, x in found}


def gather(name: str, value: Any) -> list[Any]:
    """Returns every process's JSON value, in their order; waits for all."""
    if jax.process_count() == 1:
        return [value]
    tell(name, value)
    barrier(name)
    values = told(name)
    barrier(name)  # before one of them tells the next of that name
    return [values[index] for index in range(jax.process_count())]


@contextlib.contextmanager
def leaving(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` if `end_all` ends the processes within the block.

    `end_all` does not unwind the stack.
    """
    _LEAVING.append(action)
    try:
        yield
    finally:
        _LEAVING.remove(action)


def raised_by_devices(error: Exception) -> bool:
    """Whether a program of all processes raised it: perhaps one has died.

    JAX may raise a `ValueError` there, as TensorStore does for a file; but what
    called that program is one of JAX's own functions.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    jaxs = frame.f_globals["__name__"].startswith("jax.")
    return jaxs and isinstance(error, ValueError)


class Preemption:
    """Notices that this run shall stop: SIGTERM, or Ctrl-C.

    A machine that is about to be taken away sends the first. One process that
    is told so is enough: all of them hear of it before the same step. A
    context manager; within it the first signal does not end the process, which
    must ask and leave by itself. If it has not asked since, but is done, the
    process ends as the context does: what would come next is not begun.
    """

    _asked = itertools.count()  # by all of them in this process

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
                # In several processes JAX's own service catches it.
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
        """Whether to stop now; all processes ask before each step."""
        if jax.process_count() == 1:
            self._answered = self._noticed
            return self._noticed
        # Numbers that go on from one stage to the next: processes that are
        # told between two would else wait for a step that is past.
        return multihost_utils.reached_preemption_sync_point(next(self._asked))

    def ask(self) -> None:
        """Lets the run stop as a signal does: with all its processes."""
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
    # JAX has no public door to its key-value store; its own libraries come
    # this way too.
    from jax._src import distributed

    return distributed.global_state.client


def _listen(over: threading.Event) -> None:
    """Ends this process when another one says that all must."""
    while not over.wait(_POLL):
        try:
            said = json.loads(_client().key_value_try_get(_END))
        except jax.errors.JaxRuntimeError:
            continue  # Nobody has ended; or process 0 is gone, which JAX says.
        if said["process"] == jax.process_index():
            return
        print(
            f"error: process {said['process']} has ended, and so all: "
            f"{said['message']}",
            file=sys.stderr,
        )
        _hear()
        _leave(said["code"])


def _hear() -> None:
    """Notes that this process knows the end; process 0 waits for all."""
    client, index = _client(), jax.process_index()
    deadline = time.monotonic() + 10 * _POLL
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{_HEARD}/{index}", "", allow_overwrite=True)
        # With process 0 goes the store, and JAX aborts who is still there.
        while index == 0 and time.monotonic() < deadline:
            if len(client.key_value_dir_get(_HEARD)) == jax.process_count():
                time.sleep(_POLL)
                break
            time.sleep(_POLL / 5)


def _part(code: int) -> NoReturn:
    """Ends this process when all others end too, as they do."""
    barrier("end")
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
