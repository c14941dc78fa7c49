"""Arguments are parsed one by one, and every mistake is reported."""

import contextlib
import pathlib
import string

import hypothesis
import pytest
from absl import flags
from hypothesis import strategies as st
from ml_collections import config_flags

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import arguments

CONFIG = """
from mixer_jax.training.config import defaults as config_lib
def get_config(arg=""):
    config = config_lib.defaults()
    config.name = arg or "plain"
    return config
"""
# Any valid file name: no slash, no NUL, not only dots.
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)),
    min_size=1,
    max_size=40,
).filter(lambda name: name.strip(".") and len(name.encode()) < 200)
# Any value, including those that look like flags.
VALUES = NAMES | st.sampled_from(
    ["--config.steps=3", "--config", "-x", "a = 'b c'", "--", "x --workdir=y"]
)


def parse(*given):
    """Returns the flags set by the arguments, and positional arguments."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_string("host", "", "", flag_values=values)
    flags.DEFINE_bool("dry-run", False, "", flag_values=values)
    left = arguments.parse(["main", *given], values)
    return values, left[1:]


def refusal(*given):
    with pytest.raises(UserError) as caught:
        parse(*given)
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("my drive")


@pytest.fixture(scope="module")
def file(folder):
    path = folder / "own data.py"
    path.write_text(CONFIG)
    return str(path)


def test_paths_may_contain_spaces(file):
    values, left = parse(f"--config={file}", "--config.steps=3")
    assert values["config"].value.steps == 3
    assert left == []


@hypothesis.given(name=NAMES, argument=st.sampled_from(["", "small", "a:b"]))
@hypothesis.settings(deadline=None, max_examples=50)
def test_any_file_name_works(folder, name, argument):
    path = folder / name
    path.write_text(CONFIG)
    text = f"{path}:{argument}" if argument else str(path)
    for given in ([f"--config={text}"], ["--config", text], ["-config", text]):
        values, _ = parse(*given, "--config.steps=7")
        config = values["config"].value
        assert (config.name, config.steps) == (argument or "plain", 7)
    path.unlink()
    assert "no config file" in refusal(f"--config={text}")


@hypothesis.given(value=VALUES, split=st.booleans())
@hypothesis.settings(deadline=None, max_examples=50)
def test_values_are_kept_unchanged(file, value, split):
    given = []
    split = split and not value.startswith("--")
    for name in ("--workdir", "--config.data.table"):
        given += [name, value] if split else [f"{name}={value}"]
    values, left = parse(f"--config={file}", *given, "--config.steps=5")
    assert left == []
    assert values["workdir"].value == value
    assert values["config"].value.data.table == value
    assert values["config"].value.steps == 5
    assert list(values["config"].override_values) == ["data.table", "steps"]


def test_last_value_of_a_flag_wins(file, folder):
    other = folder / "other.py"
    other.write_text(CONFIG.replace('"plain"', '"other"'))
    values, _ = parse(
        f"--config={file}",
        "--config.steps=1",
        "--workdir=a",
        f"--config={other}",
        "--config.steps=2",
        "--workdir",
        "b",
    )
    config = values["config"].value
    assert (config.name, config.steps) == ("other", 2)
    assert values["workdir"].value == "b"


def test_switches_take_no_value(file):
    values, left = parse(
        "--dry-run", "left", f"--config={file}", "--config.data.cached"
    )
    assert values["dry-run"].value
    assert values["config"].value.data.cached
    assert left == ["left"]
    values, _ = parse(
        f"--config={file}", "--config.data.cached", "--noconfig.data.cached"
    )
    assert values["config"].value.data.cached is False


def test_missing_required_flag_is_named():
    values = flags.FlagValues()
    flags.DEFINE_string("work-dir", None, "", flag_values=values)
    flags.mark_flag_as_required("work-dir", values)
    with pytest.raises(UserError, match=r"^--work-dir is required\.$"):
        arguments.parse(["main"], values)


def test_arguments_after_two_dashes_are_positional(file):
    values, left = parse(f"--config={file}", "--", "--config.steps=x", "y")
    assert left == ["--config.steps=x", "y"]
    assert values["config"].value.steps == 1000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config.steps=3"], "--config is missing"),
        (["--config.data.table", "x"], "must come after --config"),
        (["--config"], "--config needs a value"),
        (["--config="], "--config is empty"),
        (["--config=FILE", "--workdir="], "--workdir is empty"),
        (["--config=FILE", "--workdir"], "--workdir needs a value"),
        (["--config=FILE", "--workdir", "--dry-run"], "--workdir needs a val"),
        (["--config=FILE", "--workdir", "--"], "write --workdir=--"),
        (["--config=FILE", "--config.name", "--workdir=a"], "needs a value"),
        (
            ["--config=FILE", "--config.steps=abc"],
            "--config.steps=abc is not a whole number.",
        ),
        (
            ["--config=FILE", "--config.steps="],
            "--config.steps= is not a whole number.",
        ),
        (
            ["--config=FILE", "--config.sharding=(1,2"],
            "(1,2 is not a list; quote",
        ),
        (
            ["--config=FILE", "--config.optimizer.learning_rate=a\nb"],
            r"learning_rate=a\nb is not a number.",
        ),
        (["--config=FILE", "--dry-run=maybe"], "is neither true nor false."),
        (["--config=FILE", "--host="], "--host is empty"),
        (["--config=FILE", "--work=x"], "no flag --work; did you mean --work"),
        (["--config=FILE", "--frob=x"], "There is no flag --frob."),
        (["--config=FILE", "--config.steps"], "--config.steps needs a value"),
        (["--config=FILE", "--config.data=5"], "section of the config"),
        (["--config=FILE", "--config.data", "5"], "section of the config"),
        (["--config=FILE", "--noconfig.data"], "section of the config"),
        (["--config=FILE", "--config.stepps=5"], "Similar keys: steps"),
        (["--config=FILE", "--config.stepps", "5"], "Similar keys: steps"),
        (["--config=FILE", "--config.=5"], "no key ''"),
        (["--config=FILE", "--config.a b=5"], "no key 'a b'"),
        (["--config=FILE", "--config.steps[0]=5"], "no key 'steps[0]'"),
        (["--config=FILE", "--config.curriculum=x"], "no key 'curriculum'"),
        (["--config=FILE", "--noconfig.steps"], "noconfig.steps"),
        (["--config=FILE", "--config.data.cached=maybe"], "data.cached"),
        (["--config=FILE", "--nodry-run=1"], "nodry-run"),
        (["--config=FILE", "--dry_rum"], "dry_rum"),
        (["--config=FILE", "--flagfile=nowhere"], "nowhere cannot be read: No"),
        (["--config=FOLDER"], "is a folder"),
        (["--config=FILE.not:x"], "no config file"),
        (["--config=a\0b"], "no config file"),
    ],
)
def test_wrong_arguments_raise_an_error(file, folder, given, expected):
    given = [
        one.replace("FILE", file).replace("FOLDER", str(folder))
        for one in given
    ]
    assert expected in refusal(*given)


@pytest.mark.parametrize(
    ("content", "argument", "expected"),
    [
        ("def get_config(:", "", "line 1 cannot be read: SyntaxError"),
        ("\n\nraise KeyError('x')", "", "line 3 cannot be read: KeyError"),
        ("import nothing_of_that_name", "", "line 1 cannot be read: Module"),
        ("raise SystemExit", "", "line 1 cannot be read: SystemExit"),
        ("def get_config(): return 1 / 0", "", "ZeroDivisionError"),
        ("CONFIG = 1", "", "has no function get_config"),
        ("def get_config(): pass", "", "but returned NoneType"),
        ("def get_config(): pass", ":big", "takes no argument"),
        ("def get_config(arg): pass", "", "needs an argument"),
        ("def get_config(a, b): pass", "", "at most one argument"),
        ("def get_config(a, b): pass", ":x", "at most one argument"),
        ("def get_config(*, a): pass", "", "at most one argument"),
        ("\0", "", "cannot be read"),
        ("x = '\udcff'", "", "cannot be read"),
        ("a,b\n1,2\n", "", "NameError"),
    ],
)
def test_invalid_config_files_raise_an_error(
    tmp_path, content, argument, expected
):
    path = tmp_path / "wrong one.py"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    message = refusal(f"--config={path}{argument}")
    assert expected in message
    assert str(path) in message
    assert "Traceback" not in message


def test_config_runs_once_and_imports_from_its_folder(tmp_path):
    (tmp_path / "shared_by_these.py").write_text(f"RUNS = []\n{CONFIG}")
    path = tmp_path / "mine.txt"
    path.write_text(
        "import shared_by_these as shared\n"
        "shared.RUNS.append(1)\n"
        "def get_config(arg=''):\n"
        "    return shared.get_config(str(len(shared.RUNS)))\n"
    )
    values, _ = parse(f"--config={path}", "--config.steps", "2")
    assert values["config"].value.name == "1"


@hypothesis.given(st.text(string.printable, max_size=20))
@hypothesis.settings(deadline=None, max_examples=100)
def test_arbitrary_keys_and_values_raise_only_user_errors(file, text):
    for given in (f"--config.{text}", f"--config.data.cached={text}", text):
        with contextlib.suppress(UserError):
            parse(f"--config={file}", given)
    assert pathlib.Path(file).read_text() == CONFIG
