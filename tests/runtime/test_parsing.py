"""Command-line parsing: invalid options are reported, not guessed."""

import ast
import errno
import importlib
import io
import pathlib

import pytest

import mixer_jax
from mixer_jax.runtime import parsing

ROOT = pathlib.Path(mixer_jax.__file__).parent
# A path option of each command, and the other required arguments.
PATHS = [
    ("demo.simulate", ["--table=t"], "--out"),
    ("demo.simulate", ["--out=o"], "--table"),
    ("categories.aggregate", ["--out=o"], "--events"),
    ("categorize", ["--out=o"], "--log"),
    ("categorize", ["--log=l", "--out=o"], "--truth"),
    ("data.check", [], "--table"),
    ("data.read", ["folders"], "--root"),
    ("data.read", ["folders", "--root=r"], "--out"),
    ("demo.icons", ["--out=o"], "--package"),
    ("demo.furniture.__main__", ["--out=o"], "--package"),
    ("demo.emoji", [], "--out"),
    ("demo.emoji_vendors", ["--out=o"], "--package"),
    ("embed", ["--workdir=w", "--out=o"], "--table"),
    ("evaluate", ["--workdir=w"], "--out"),
    ("experiments.__main__", ["--suite=s", "--data=a=b"], "--out"),
    ("export", ["--out=o"], "--workdir"),
    ("index", ["build", "--workdir=w", "--table=t"], "--out"),
    ("report", ["--workdir=w"], "--out"),
    ("report", [], "--categories"),
    ("report", [], "--experiments"),
    ("serve", [], "--index"),
    ("sweep", [], "--categories"),
]


def run_invalid(capsys, main, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(("command", "others", "option"), PATHS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [("", "the value is empty"), ("a\nWrote b", "line break")],
)
def test_every_command_rejects_empty_and_multiline_paths(
    command, others, option, value, reason, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"mixer_jax.{command}").main
    for given in ([f"{option}={value}"], [option, value]):
        error = run_invalid(capsys, main, [*others, *given])
        assert option in error
        assert reason in error
    assert not list(tmp_path.iterdir())


def test_every_command_uses_this_parser():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) != "argparse.ArgumentParser", path


@pytest.fixture
def parser():
    made = parsing.Parser()
    made.add_argument("--workdir", required=True)
    made.add_argument("--size", type=int, default=3)
    made.add_argument("--rate", type=float)
    made.add_argument("--model", action="append", default=[])
    made.add_argument("--column", type=parsing.any_text)
    made.add_argument("--unit", action="store_true")
    return made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--workdir=a", "--workdir=b"], "--workdir: given more than once"),
        (["--work=a"], "no option --work; did you mean --workdir?"),
        (["--wrokdir=a"], "no option --wrokdir; did you mean --workdir?"),
        (["-workdir=a"], "no option -workdir; did you mean --workdir?"),
        (["--workdir", "-x"], "value of --workdir, write --workdir=..."),
        (["--workdir=a", "--frob"], "no option --frob; --help lists"),
        (["--workdir=a", "b"], "unrecognized arguments: b; --help lists"),
        (["--workdir=a", "--size=two"], "--size: 'two' is not a whole number"),
        (["--workdir=a", f"--size={'9' * 400}"], "is not a whole number"),
        (["--workdir=a", "--rate=nan"], "--rate: 'nan' is not a number"),
        (["--workdir=a", "--size="], "--size: '' is not a whole number"),
        (["--workdir=a", "--model="], "--model: the value is empty"),
        ([], "required: --workdir"),
    ],
)
def test_mistakes_are_reported_in_one_line(parser, given, message, capsys):
    assert message in run_invalid(capsys, parser.parse_args, given)


def test_values_are_parsed_unchanged(parser):
    given = parser.parse_args(
        ["--workdir=-x=1", "--size", "-5", "--rate=-1e3", "--column=a\nb"]
        + ["--model", "--my folder", "--model= ", "--unit", "--unit"]
    )
    assert (given.workdir, given.size, given.rate) == ("-x=1", -5, -1000)
    assert (given.column, given.model) == ("a\nb", ["--my folder", " "])
    again = parser.parse_args(["--workdir=b"])
    assert (again.workdir, again.size) == ("b", 3)


def test_unprintable_help_is_an_error(parser, monkeypatch, capsys):
    full = io.StringIO()

    def write(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    full.write = write
    monkeypatch.setattr("sys.stdout", full)
    error = run_invalid(capsys, parser.parse_args, ["--help"])
    assert error == (
        "error: The output: No space left on device; free some space.\n"
    )
