"""Parses a command's flags, its config file and the overrides of config keys.

Arguments are parsed one by one and never joined, so that spaces, quotes, `=`
and `:` in a value stay unchanged.
"""

import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

from mixer_jax import configs
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import one_line
from mixer_jax.training.config import defaults as config_lib

_CONFIG = "config"  # name of the flag for the config file
_MODULE = "mixer_jax_config_file"  # __name__ of a config file
# Errors that absl and ml_collections raise for invalid flags.
_WRONG = (
    flags.Error,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
# Messages of absl and ml_collections, and the sentences that replace them.
_SENTENCES = tuple(
    (re.compile(pattern, re.DOTALL), sentence)
    for pattern, sentence in (
        (r"flag --([\w-]+)=None: .*", r"--\1 is required."),
        (
            r"flag (--.*): invalid literal for int.*",
            r"\1 is not a whole number.",
        ),
        (
            r"flag (--.*): could not convert string to .*",
            r"\1 is not a number.",
        ),
        (r"flag (--.*): \('Non-boolean .*", r"\1 is neither true nor false."),
        (
            r"flag (--.*): Error while parsing string: .* as tuple.*",
            r"\1 is not a list; quote its items, as in ('a', 'b').",
        ),
        (
            r"flag (--.*): \S+ is not integer >= (\d+)",
            r"\1 is too small; it must be at least \2.",
        ),
        (
            r"Unknown command line flag '(.*)'. Did you mean: (.*?),? \?",
            r"There is no flag --\1; did you mean --\2?",
        ),
        (r"Unknown command line flag '(.*)'", r"There is no flag --\1."),
        (
            r"ERROR:: Unable to open flagfile: .*\] (.*): '(.*)'",
            r"--flagfile=\2 cannot be read: \1.",
        ),
    )
)


def parse(
    argv: Sequence[str], values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parses the arguments of a command.

    Args:
      argv: the program's name and its arguments.
      values: the defined flags; a flag named `config` names a config file.

    Returns:
      The program's name and its positional arguments.

    Raises:
      UserError: for the first invalid argument.
    """
    try:
        given = values.read_flags_from_files(list(argv[1:]), force_gnu=False)
        if _CONFIG in values:
            given = _parse_config(argv[0], given, values)
        left = values([argv[0], *given])
    except UserError:
        raise
    except _WRONG as error:
        raise UserError(_sentence(str(error))) from error
    for name, flag in values.flag_values_dict().items():
        is_key = name.startswith(f"{_CONFIG}.")
        if flag == "" and values[name].present and not is_key:
            raise UserError(f"--{name} is empty; give it a value.")
    return left


def _sentence(message: str) -> str:
    """Returns a plain sentence for a library's message about a flag."""
    for pattern, sentence in _SENTENCES:
        if match := pattern.fullmatch(message):
            return one_line(match.expand(sentence))
    return one_line(message)


def load_config(text: str) -> ConfigDict:
    """Returns the config that `FILE` or `FILE:ARGUMENT` defines.

    A config file may import modules from its own folder.

    Raises:
      UserError: if the file does not exist or does not return a config.
    """
    file, arguments = _split(text)
    with _explaining_errors(file), _importing_from_folder(file):
        loader = importlib.machinery.SourceFileLoader(_MODULE, file)
        spec = importlib.util.spec_from_loader(_MODULE, loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module
        loader.exec_module(module)
        make = getattr(module, "get_config", None)
        if not callable(make):
            raise UserError(f"The config {file} has no function get_config.")
        _check_arguments(make, file, arguments)
        config = make(*arguments)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {file} must return a ConfigDict, but returned "
            f"{type(config).__name__}."
        )
    return config.lock()


class _Parser(flags.ArgumentParser):
    """Loads each config once; errors are raised as a `UserError`."""

    def __init__(self, loaded: dict[str, ConfigDict]):
        # absl shares parsers whose constructor takes no arguments.
        self._loaded = loaded

    def parse(self, path: str) -> ConfigDict:
        if path not in self._loaded:
            self._loaded[path] = load_config(path)
        return self._loaded[path]


def _parse_config(
    program: str, given: list[str], values: flags.FlagValues
) -> list[str]:
    """Checks the config and the names of its overrides.

    Returns:
      The arguments with each flag as one string, and the config first and only
      once, as ml_collections expects.
    """
    flag = values[_CONFIG]
    flag.parser = parser = _Parser({})
    path = None

    def is_switch(name: str) -> bool:
        """Returns whether a flag without `=` has no value."""
        if name in values:
            return values[name].boolean
        section, _, key = name.partition(".")
        if section != _CONFIG:
            return name != "undefok"
        if path is None:
            raise UserError(f"--{name} must come after --config.")
        check_override(path, key)
        return isinstance(config_lib.flatten(parser.parse(path))[key], bool)

    def check_override(path: str, key: str) -> None:
        config_lib.check_keys(parser.parse(path), [key])

    parsed, left = [], []
    for name, value in _walk(given, is_switch):
        if name == _CONFIG:
            path = value
        elif not name:
            left.append(value)
        else:
            parsed.append((name, value))
    keys = [
        name.partition(".")[2]
        for name, _ in parsed
        if name.startswith((f"{_CONFIG}.", f"no{_CONFIG}."))
    ]
    if path is None and keys:
        raise UserError(
            f"--config is missing; --config.{keys[0]} overrides one of its "
            "keys."
        )
    if path is not None:
        for key in keys:
            check_override(path, key)
        parser.parse(path)
        parsed.insert(0, (_CONFIG, path))
    made = [f"--{a}" if b is None else f"--{a}={b}" for a, b in parsed]
    flag._sys_argv = [program, *made]
    return [*made, "--", *left]


def _walk(
    given: Iterable[str], is_switch: Callable[[str], bool]
) -> Iterator[tuple[str, str | None]]:
    """Splits arguments into flags and positional ones.

    All arguments after `--` are positional.

    Args:
      given: the arguments.
      is_switch: returns whether a flag without `=` has no value.

    Yields:
      `(name, value)` for a flag, with None for a switch; `("", argument)` for a
      positional argument.

    Raises:
      UserError: if a flag's value is missing; an argument that begins with
        `--` is not a value but another flag.
    """
    given = iter(given)
    for argument in given:
        text = argument.removeprefix("-").removeprefix("-")
        name, equals, value = text.partition("=")
        if argument == "--":
            yield from (("", one) for one in given)
        elif text == argument or not name:
            yield "", argument
        elif equals:
            yield name, value
        elif is_switch(name):
            yield name, None
        elif (value := next(given, None)) is None:
            raise UserError(f"--{name} needs a value.")
        elif value.startswith("--"):
            raise UserError(
                f"--{name} needs a value; if the value is {value}, write "
                f"--{name}={value}"
            )
        else:
            yield name, value


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """Returns the file and arguments of `FILE` or `FILE:ARGUMENT`.

    Both may contain colons: the longest prefix that names an existing file is
    used, or else a config of the package, such as `own_data`.
    """
    if not text:
        raise UserError(
            "--config is empty; give a file, such as configs/stage1.py."
        )
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        file = ":".join(parts[:count])
        if "\0" not in file and os.path.isfile(file):
            return file, (":".join(parts[count:]),) * (count < len(parts))
    packaged = _packaged()
    if parts[0] in packaged:
        return packaged[parts[0]], (":".join(parts[1:]),) * (len(parts) > 1)
    file = text.rpartition(":")[0] or text
    if os.path.isdir(file):
        raise UserError(f"{file} is a folder; --config must name a file.")
    other = f" or {text}" if file != text else ""
    raise UserError(
        f"There is no config file {file}{other}. Configs that need no "
        f"path: {', '.join(packaged)}."
    )


def _packaged() -> dict[str, str]:
    """Returns the files of the configs that need no path, by name."""
    folder = pathlib.Path(configs.__file__).parent
    return {
        path.stem: str(path)
        for path in sorted(folder.glob("[a-z]*.py"))
        if path.stem != "common"
    }


def _check_arguments(
    make: Callable, file: str, arguments: tuple[str, ...]
) -> None:
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as error:
        needed = [
            parameter
            for parameter in inspect.signature(make).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind
            not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if len(needed) > 1 or any(
            parameter.kind is parameter.KEYWORD_ONLY for parameter in needed
        ):
            problem = (
                "cannot be used: get_config can require at most one argument, "
                "the ARGUMENT in --config=FILE:ARGUMENT."
            )
        elif arguments:
            problem = f"takes no argument; leave out ':{arguments[0]}'."
        else:
            problem = f"needs an argument, as in --config={file}:ARGUMENT."
        raise UserError(f"The config {file} {problem}") from error


@contextlib.contextmanager
def _explaining_errors(file: str) -> Iterator[None]:
    """Turns exceptions of a config file into errors that name the line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == file
        ]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines.append(error.lineno)
        where = f", line {lines[-1]}" if lines and lines[-1] else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(
            f"The config {file}{where} cannot be read: "
            f"{type(error).__name__}{': ' if reason else ''}{one_line(reason)}"
        ) from error


@contextlib.contextmanager
def _importing_from_folder(file: str) -> Iterator[None]:
    """Lets a file import modules from its own folder, as a script can."""
    folder = os.path.dirname(os.path.abspath(file))
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
