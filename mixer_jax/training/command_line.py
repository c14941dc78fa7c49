"""Flags of commands: errors are one sentence and exit code 2."""

import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from mixer_jax import processes
from mixer_jax.errors import UserError
from mixer_jax.runtime import command
from mixer_jax.training import config as config_lib

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of process 0, where several cannot find each other by "
    "themselves.",
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 0, "How many processes there are.", 0
)
_PROCESS = flags.DEFINE_integer(
    "process", -1, "Which of them this is, from 0.", -1
)


def run(main: Callable[[], None], together: bool = False) -> None:
    """Parses the flags, runs `main`, and says what a user can mend.

    The command's config flag, where it has one, is named `config`. Exit codes
    are those of `runtime.command`.

    Args:
      main: of the command.
      together: whether several processes may run it as one.
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
    try:
        _check_config(argv)
        return flags.FLAGS(argv)
    except (UserError, flags.Error, OSError, TypeError) as error:
        return _fail(str(error))


def _check_config(argv: Sequence[str]) -> None:
    """Checks the config's file and the names of its overrides.

    `config_flags` would report both by a traceback.
    """
    given = " ".join(argv)
    path = re.search(r"(?:^| )--?config[= ](\S+)", given)
    if "config" not in flags.FLAGS or path is None:
        return
    file = path[1].split(":")[0]
    if not os.path.isfile(file):
        raise UserError(f"There is no config file {file}.")
    parser = config_flags.config_flags.ConfigFileFlagParser("config")
    try:
        config = parser.parse(path[1])
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"The config {path[1]} cannot be read: {reason}") from (
            error
        )
    config_lib.check_keys(
        config, re.findall(r"(?:^| )--?(?:no)?config\.([\w.]+)", given)
    )
