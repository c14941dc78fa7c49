"""Options in a message exist in every command that can print it."""

import argparse
import ast
import importlib
import pathlib
import re

import pytest

import mixer_jax
from mixer_jax.data import read, readers
from mixer_jax.service import forms

ROOT = pathlib.Path(mixer_jax.__file__).parent
OPTION = re.compile(r"(?<![\w`-])--([a-z][a-z_-]+)(?=[\s.,;:=)'\"]|$)")
# Modules whose messages only these commands can print, although other commands
# import them too.
REACHED = {
    "categories.identities": {"categorize"},
    "categories.quality.against_truth": {"categorize"},
    "categories.settings": {"categorize"},
    "categories.tables": {"categorize"},
    "data.readers.columns": {"data.read"},
    "data.readers.files": {"data.read"},
    "data.readers.tfds": {"data.read"},
    "data.tables.found": {"categorize"},
    "runtime.ownership.replacing": {"categorize", "categories.aggregate"},
    "runtime.processes": {"main"},
    "service.opening": {"serve"},
    "service.sources": {"index"},
    "service.stores.generations": {"index"},
    "service.stores.milvus.place": {"index"},
    "retrieval.places": {"serve"},
    "training.checkpoint.checkpoints": {"main"},
    "training.checkpoint.failed_saves": {"main"},
    "training.config.defaults": {"main", "compile_for_tpu"},
    "training.inputs": {"main"},
    "training.loop": {"main"},
    "training.origins": {"main"},
    "training.checkpoint.workdir": {"main"},
    "retrieval.sharded.layout": {"embed"},
    "retrieval.rows_file": {"evaluate"},
    "retrieval.runs": {"evaluate"},
    "experiments.measure": {"evaluate", "report"},
    "retrieval.evaluate": {"evaluate"},
    "demo.icon_packages": {"demo.icons"},
    "demo.furniture.package": {"demo.furniture.__main__"},
}
# Messages may name another command with one of its options.
ELSEWHERE = re.compile(r"mixer_jax\.[\w.]+ --[\w-]+")
# Parts of messages that are command lines of other programs.
OTHERS = ("pip install", "npm pack", "python -m", "Run this first")


def parse_modules():
    """Returns the syntax tree of each module, by name without `mixer_jax.`."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts)] = ast.parse(path.read_text())
    return found


TREES = parse_modules()


def is_command(tree):
    last = tree.body[-1] if tree.body else None
    return isinstance(last, ast.If) and "__main__" in ast.unparse(last.test)


COMMANDS = sorted(name for name, tree in TREES.items() if is_command(tree))


def imported(name):
    """Yields the package's modules imported by a module."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                for one in (whole, node.module):
                    one = one.removeprefix("mixer_jax").removeprefix(".")
                    if one in TREES and one:
                        yield one


def reachable(command):
    """Returns the modules that a command imports, itself included."""
    found, pending = set(), [command]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += imported(name)
    return found


def text(node):
    """Returns the constant parts of a string, with a blank per placeholder."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    return " "


def options_in_messages(name):
    """Yields the line and name of each option in a module's messages."""
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func).rsplit(".", 1)[-1]
        if function not in ("UserError", "UnreadableImageError", "error"):
            continue
        for part in ast.walk(node):
            if not isinstance(part, ast.JoinedStr | ast.Constant):
                continue
            message = ELSEWHERE.sub("", text(part))
            if any(other in message for other in OTHERS):
                continue
            for option in OPTION.findall(message):
                yield node.lineno, option


class ParsedError(Exception):
    """Raised instead of parsing; contains the command's parser."""


def options(command, monkeypatch):
    """Returns the options of a command."""
    found = {
        node.args[0].value
        for node in ast.walk(TREES[command])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith(("flags.DEFINE", "config_flags"))
    }
    if command == "data.read":
        parsers = [read.make_parser(name) for name in readers.FORMATS]
    elif command == "index":
        parsers = [forms.make_parser(name) for name in forms.FORMS]
    if command in ("data.read", "index"):
        strings = {o for one in parsers for o in one._option_string_actions}
        return {option.lstrip("-") for option in strings}
    if found:
        shared = "training.config.command_line"
        return found | {
            node.args[0].value
            for node in ast.walk(TREES[shared])
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).startswith("flags.DEFINE")
        }

    def stop(parser, *_):
        raise ParsedError(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(ParsedError) as caught:
        importlib.import_module(f"mixer_jax.{command}").main([])
    strings = caught.value.args[0]._option_string_actions
    return {option.lstrip("-") for option in strings}


@pytest.mark.parametrize("command", COMMANDS)
def test_options_in_messages_exist(command, monkeypatch):
    known = options(command, monkeypatch)
    assert known
    wrong = [
        f"{name}, line {line}: --{option}"
        for name in sorted(reachable(command))
        if command in REACHED.get(name, {command})
        for line, option in options_in_messages(name)
        if option not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_options_are_found_in_messages():
    assert {o for _, o in options_in_messages("data.readers.columns")} >= {
        "out",
        "column",
    }
    assert {o for _, o in options_in_messages("retrieval.rows_file")} == {"out"}


def test_suggested_keys_can_be_changed_when_resuming():
    """Messages suggest these keys for resuming a run."""
    from mixer_jax.training.config import defaults

    for key in ("data.max_skipped", "data.features", "data.prepared"):
        assert key.startswith(defaults.FREE)
