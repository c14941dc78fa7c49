"""Parses command-line options; reports each mistake in one sentence."""

import argparse
import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any, NoReturn

from mixer_jax.runtime import command, numbers
from mixer_jax.runtime.text import nearest, one_line

_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # a value despite the leading -
# Prefixes of the environment variables that let JAX detect a cluster.
_CLUSTERS = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_")


def for_command(name: str, doc: str, **options: Any) -> "Parser":
    """Returns the parser of `python -m NAME`, described by its docstring."""
    return Parser(
        prog=f"python -m {name}", description=doc.split("\n")[0], **options
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the options that let the processes of a command find each other."""
    address = "HOST:PORT of process 0, if the processes cannot find each other"
    parser.add_argument("--coordinator", default="", help=address)
    for name, least, default, text in (
        ("--processes", 0, 0, "number of processes"),
        ("--process", -1, -1, "index of this process, from 0"),
    ):
        kind = numbers.whole(least)
        parser.add_argument(name, type=kind, default=default, help=text)


def may_have_peers(given: argparse.Namespace) -> bool:
    """Returns whether this process may be one of several in the same run.

    If not, a command that computes nothing on devices need not import JAX.

    Args:
      given: the parsed options from `add_processes`.
    """
    if given.coordinator or given.processes or given.process >= 0:
        return True
    in_cluster = any(name.startswith(_CLUSTERS) for name in os.environ)
    return in_cluster or importlib.util.find_spec("libtpu") is not None


def any_text(value: str) -> str:
    """Argument type for values that may have line breaks, such as a heading."""
    return value


class Parser(argparse.ArgumentParser):
    """An argument parser that rejects input argparse would misinterpret.

    It rejects empty values, since an empty path would be the current folder;
    abbreviated options; options given twice, unless they are lists;
    and values with line breaks, which messages would show as separate lines.
    Errors end the process with exit code 2.
    """

    def __init__(self, **options: Any):
        """Takes the options of `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **options)
        self.register("type", int, numbers.whole(-math.inf))
        self.register("type", float, numbers.number(-math.inf))
        self._given: set[str] = set()

    def parse_known_args(
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses arguments; reports unknown options before missing ones."""
        args = sys.argv[1:] if args is None else args
        self._given.clear()
        for place, argument in enumerate(args):
            if argument == "--":
                break
            name = argument.partition("=")[0]
            if self._is_unknown(argument, name):
                self.error(self._no_option(name, args[max(place - 1, 0)]))
        return super().parse_known_args(args, namespace)

    def print_help(self, file: IO[str] | None = None) -> None:
        """Prints the help; ends the process if it cannot be printed.

        argparse would ignore the error.
        """
        text = self.format_help()
        code = command.run(lambda: print(text, end="", file=file))
        if code:
            self.exit(code)

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        message = one_line(message.removeprefix("argument "))
        end = "" if message.endswith(".") else "; --help lists the options."
        self.exit(command.WRONG, f"error: {message}{end}\n")

    def _is_unknown(self, argument: str, name: str) -> bool:
        """Returns whether an argument looks like an option but is unknown."""
        return (
            len(argument) > 1
            and argument[0] == "-"
            and " " not in argument
            and name not in self._option_string_actions
            and not _NUMBER.fullmatch(argument)
        )

    def _no_option(self, name: str, before: str) -> str:
        known = [o for o in self._option_string_actions if o.startswith("--")]
        near = [o for o in known if o.startswith(f"--{name.strip('-')}")]
        near = near or nearest(name, known, 3)
        message = f"there is no option {name}"
        if near:
            return f"{message}; did you mean {' or '.join(near)}?"
        if before in known:
            return (
                f"{message}; to pass it as the value of {before}, write "
                f"{before}=..."
            )
        return message

    def _get_values(self, action: argparse.Action, values: list[str]) -> Any:
        """Converts and checks an option's values."""
        converted = super()._get_values(action, values)
        if "" in values:
            raise argparse.ArgumentError(
                action, "the value is empty; set a value or omit the option"
            )
        if action.type is not any_text and any("\n" in x for x in values):
            raise argparse.ArgumentError(
                action, f"{''.join(values)!r} contains a line break"
            )
        is_list = isinstance(action, argparse._AppendAction)
        if values and action.dest in self._given and not is_list:
            raise argparse.ArgumentError(action, "given more than once")
        self._given.add(action.dest)
        return converted
