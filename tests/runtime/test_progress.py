"""Progress shown during a long pass over data."""

import io

import pytest
import rich.console
from jax._src import distributed

from mixer_jax import embed, evaluate, index
from mixer_jax.runtime import progress


@pytest.fixture
def clock(monkeypatch):
    """The current time in seconds, in a list with one element."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(clock, counts, total, seconds=40.0, **kwargs):
    """Returns the output when each count takes `seconds`."""
    file = io.StringIO()
    console = rich.console.Console(file=file, width=80, **kwargs)
    with progress.show("Embedding [x]", total, console=console) as count:
        for number in counts:
            clock[0] += seconds
            count(number)
    return file.getvalue()


def test_lines_show_count_rate_and_time_left(clock):
    lines = shown(clock, [100, 800, 800], 8100).splitlines()
    assert lines == [
        "Embedding [x]: 100 of 8,100",
        "Embedding [x]: 900 of 8,100, 20/s, 6:00 left",
        "Embedding [x]: 1,700 of 8,100, 20/s, 5:20 left",
    ]


def test_lines_are_rate_limited(clock):
    assert len(shown(clock, [1] * 60, 60, seconds=1.0).splitlines()) == 2
    assert shown(clock, [1] * 20, 20, seconds=1.0) == ""


def test_shares_and_unknown_totals(clock):
    lines = shown(clock, [0.25, 0.25], 1.0).splitlines()
    assert lines[1] == "Embedding [x]: 50%, 1:20 left"
    lines = shown(clock, [1, 4000], None).splitlines()
    assert lines[1] == "Embedding [x]: 4,001, 100/s"
    lines = shown(clock, [0, 40], 40 * 7201).splitlines()
    assert lines[1] == "Embedding [x]: 40 of 288,040, 1/s, 80:00:00 left"


def test_terminal_shows_a_transient_bar(clock):
    output = shown(clock, [1, 2], 3, force_terminal=True)
    assert "Embedding [x]" in output
    assert "3 of 3" in output
    assert output.rstrip().endswith("\x1b[2K")


def test_progress_is_printed_to_stderr(clock, capsys):
    with progress.show("Embedding", 2) as count:
        clock[0] += progress.EVERY
        count(1)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Embedding: 1 of 2\n")


def test_only_the_outermost_pass_is_shown(clock, capsys):
    for _ in range(2):
        with progress.show("Outer", 2) as outer:
            with progress.show("Inner", 2) as inner:
                clock[0] += progress.EVERY
                inner(1)
            outer(1)
    assert capsys.readouterr().err == "Outer: 1 of 2\n" * 2


def test_track_counts_consumed_items(clock, capsys):
    for _ in progress.track(["a", "b", "c"], "Reading"):
        clock[0] += progress.EVERY
    assert capsys.readouterr().err.splitlines() == [
        "Reading: 1 of 3",
        "Reading: 2 of 3, 0.033/s, 0:30 left",
        "Reading: 3 of 3, 0.033/s, 0:00 left",
    ]


def test_other_processes_and_quiet_consoles_show_nothing(clock, monkeypatch):
    assert shown(clock, [1, 2], 3, quiet=True) == ""
    monkeypatch.setattr(distributed.global_state, "process_id", 1)
    assert shown(clock, [1, 2], 3) == ""


COMMANDS = {
    embed: ("--workdir={run}/stage2", "--table={table}", "--out={run}/e.npz"),
    index: (
        *("build", "--workdir={run}", "--table={table}"),
        "--out={run}/index",
    ),
    evaluate: ("--workdir={run}", "--stage=stage2"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_long_commands_show_progress(
    command, color_run, colors, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    table = colors[0] / "colors.csv"
    arguments = [
        argument.format(run=color_run, table=table)
        for argument in COMMANDS[command]
    ]
    assert command.main(arguments) == 0
    out, err = capsys.readouterr()
    # Indexing checks the images of each batch and shows a single label.
    labels = ("Checking images: ", "Embedding documents: ")
    for label in ("Indexing documents: ",) if command is index else labels:
        assert label in err
        assert label not in out
