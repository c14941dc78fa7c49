import argparse
import importlib

import pytest

from mixer_jax.runtime import numbers

RUN = ["--workdir=w", "--table=t.csv", "--out=o.npz"]
# The required arguments of each command.
REQUIRED = {
    "mixer_jax.embed": RUN,
    "mixer_jax.index": ["build", *RUN],
    "mixer_jax.evaluate": ["--workdir=w"],
    "mixer_jax.report": ["--workdir=w"],
    "mixer_jax.categorize": ["--log=l", "--out=o"],
    "mixer_jax.categories.aggregate": ["--events=e", "--out=o"],
    "mixer_jax.data.check": ["--table=t.csv"],
}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1.01", "", "x"])
@pytest.mark.parametrize("command", REQUIRED)
def test_invalid_shares_are_rejected_by_every_command(command, text, capsys):
    main = importlib.import_module(command).main
    with pytest.raises(SystemExit) as stopped:
        main([*REQUIRED[command], f"--max-skipped={text}"])
    assert stopped.value.code == 2
    message = f"--max-skipped: {text!r} is not a number from 0 to 1"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("mixer_jax.embed", "--batch-size"),
        ("mixer_jax.index", "--batch-size"),
        ("mixer_jax.data.check", "--threads"),
    ],
)
@pytest.mark.parametrize("text", ["0", "-3", "1.5", "nan", "1000000000000"])
def test_invalid_counts_are_rejected(command, option, text, capsys):
    main = importlib.import_module(command).main
    with pytest.raises(SystemExit) as stopped:
        main([*REQUIRED[command], f"{option}={text}"])
    assert stopped.value.code == 2
    assert (
        f"{option}: {text!r} is not a whole number" in capsys.readouterr().err
    )


@pytest.mark.parametrize("option", ["--searches", "--wrong"])
@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
def test_simulation_takes_only_finite_numbers(option, text, capsys):
    simulate = importlib.import_module("mixer_jax.demo.simulate")
    with pytest.raises(SystemExit) as stopped:
        simulate.main(["--table=t.csv", "--out=o", f"{option}={text}"])
    assert stopped.value.code == 2
    assert f"{option}: {text!r} is not a number" in capsys.readouterr().err


def test_ranges_include_their_ends():
    assert numbers.share("0") == 0
    assert numbers.share("1") == 1
    assert numbers.whole(1)("1") == 1
    assert numbers.number(0)("1e3") == 1000
    with pytest.raises(argparse.ArgumentTypeError, match="number of 1 or more"):
        numbers.whole(1)("0")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("mixer_jax.demo.simulate", ["--table=t", "--seed=-3"]),
        ("mixer_jax.demo.simulate", ["--table=t", "--clicks=-3"]),
        (
            "mixer_jax.categories.aggregate",
            ["--events=e", "--longest-session=0"],
        ),
        ("mixer_jax.categorize", ["--log=l", "--size=0"]),
        ("mixer_jax.categorize", ["--log=l", "--size=99999"]),
        ("mixer_jax.demo.emoji", ["--size=9999999"]),
        ("mixer_jax.demo.emoji", ["--limit=-1"]),
    ],
)
def test_counts_out_of_range_are_rejected_before_the_work(
    command, arguments, capsys, tmp_path
):
    main = importlib.import_module(command).main
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, f"--out={tmp_path}"])
    assert stopped.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err
