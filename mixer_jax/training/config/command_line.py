"""Parses a command's flags; an error is one sentence with exit code 2."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from mixer_jax.runtime import command, processes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import arguments

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of process 0, if the processes cannot find each other.",
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "Number of processes.", 0)
_PROCESS = flags.DEFINE_integer(
    "process", -1, "Index of this process, from 0.", -1
)


def run(main: Callable[[], None], together: bool = False) -> None:
    """Parses the flags and runs `main`; prints errors that a user can fix.

    A config flag must be named `config`. Exit codes are those of
    `runtime.command`.

    Args:
      main: the command's body.
      together: whether several processes may run the command as one.
    """

    def work() -> None:
        if together:
            processes.start(
                _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
            )
            processes.run(main)
        else:
            main()

    def checked(argv: Sequence[str]) -> int:
        if argv[1:]:
            _fail(f"Unknown argument '{argv[1]}'; flags start with --.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return command.run(work)

    app.run(checked, flags_parser=_parse)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(processes.WRONG)


def _parse(argv: Sequence[str]) -> list[str]:
    # absl would report an error while printing --help as a wrong flag.
    output = io.StringIO()
    try:
        for one in argv[1:]:
            if "\n" in one:  # Messages must be single lines.
                raise UserError(f"The argument {one!r} contains a line break.")
        with contextlib.redirect_stdout(output):
            return arguments.parse(argv)
    except UserError as error:
        return _fail(str(error))
    except SystemExit:
        # absl exits with an error code after printing --help.
        text, output = output.getvalue(), io.StringIO()
        code = command.run(lambda: print(text, end=""))
        raise SystemExit(code) from None
    finally:
        if output.tell():  # printed by a config file
            print(output.getvalue(), end="")
