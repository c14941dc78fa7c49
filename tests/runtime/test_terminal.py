"""User text is printed on the terminal unchanged."""

import io
import pathlib
import re
import sys

import hypothesis
import pytest
import rich.console
from hypothesis import strategies as st

import mixer_jax
from mixer_jax.runtime import progress, terminal
from mixer_jax.runtime.text import printable

# Any line of text; surrogates represent bytes of a file name.
LINES = st.text(st.characters(exclude_characters="\n\t"), max_size=60)
MARKUP = ["[/v3]/w", "[v2]", ":smile:", "[bold]x", "a\\[b]", "[link=x]y[/link]"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def consoles(file):
    """Yields our console and a plain Rich one that parses markup and emoji."""
    yield terminal.Console(file=file, width=40)
    yield rich.console.Console(file=file, width=40, force_terminal=True)


@hypothesis.given(st.sampled_from(MARKUP) | LINES)
@hypothesis.settings(deadline=None, max_examples=100)
def test_lines_are_printed_unchanged(text):
    for number in range(2):
        file = io.StringIO()
        terminal.say(text, console=list(consoles(file))[number])
        output = file.getvalue()
        assert ESCAPES.sub("", output) == f"{printable(text)}\n"


@hypothesis.given(st.sampled_from(MARKUP) | LINES)
@hypothesis.settings(deadline=None, max_examples=50)
def test_consoles_print_strings_unchanged(text):
    file = io.StringIO()
    terminal.Console(file=file, width=40).print(text)
    assert file.getvalue() == f"{printable(text)}\n"


@pytest.mark.parametrize("text", [*MARKUP, "\x1b[31mred"])
@pytest.mark.parametrize("number", [0, 1])
def test_tables_show_text_unchanged(text, number):
    file = io.StringIO()
    table = terminal.Table(f"1{text}", title=f"0{text}")
    table.add_column(f"2{text}")
    table.add_row(f"3{text}", f"4{text}")
    console = list(consoles(file))[number]
    console.width = 200
    console.print(table)
    output = ESCAPES.sub("", file.getvalue())
    for place in range(5):
        assert f"{place}{printable(text)}" in output


@pytest.mark.parametrize("text", [*MARKUP, "\x1b[31mred"])
def test_bars_show_descriptions_unchanged(text):
    file = io.StringIO()
    console = terminal.Console(file=file, force_terminal=True, width=200)
    with progress.show(f"1{text}", 2, console=console) as count:
        count(1)
    with terminal.count_bar(console) as bar:
        bar.add_task(f"2{text}", total=2, message=f"3{text}")
    output = ESCAPES.sub("", file.getvalue())
    for place in range(1, 4):
        assert f"{place}{printable(text)}" in output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_prints_every_text(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict")
    )
    text = "caf\u00e9 \N{SNOWMAN} \udce9"
    terminal.say(text)
    table = terminal.Table("heading", title=text)
    table.add_row(text)
    terminal.Console().print(table)
    sys.stdout.flush()
    output = raw.getvalue().decode(encoding)
    expected = text.encode(encoding, "backslashreplace").decode(encoding)
    assert output.count(expected) == 3


def test_no_other_module_uses_rich():
    root = pathlib.Path(mixer_jax.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"^\s*(import|from) rich\b", path.read_text(), re.M)
    }
    assert users == {"runtime/terminal.py", "runtime/progress.py"}
