"""Every command with small inputs, to be run in the test process."""

import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from mixer_jax import (
    categorize,
    compare,
    embed,
    evaluate,
    export,
    index,
    report,
    sweep,
)
from mixer_jax.data import check, read
from mixer_jax.demo import simulate
from mixer_jax.experiments import __main__ as experiments


class Inputs(NamedTuple):
    """Read-only inputs of the commands.

    Attributes:
      run: a run with two stages of the color model.
      table: the run's table.
      shop: a folder of categories and their click log.
      album: a folder with two categories of three images each.
      folds: a table with the splits train, val and test, if there is one.
    """

    run: pathlib.Path
    table: pathlib.Path
    shop: pathlib.Path
    album: pathlib.Path
    folds: pathlib.Path | None = None


class Command(NamedTuple):
    """A command.

    Attributes:
      main: maps the arguments to the exit code.
      arguments: maps the inputs and the output path to the arguments.
      name: the name of the output file or folder; "" if it has no --out.
    """

    main: Callable[[list[str]], int]
    arguments: Callable[[Inputs, pathlib.Path], list[str]]
    name: str


COMMANDS = {
    "embed": Command(
        embed.main,
        lambda i, out: (
            [f"--workdir={i.run}/stage2", f"--table={i.table}"]
            + [f"--out={out}"]
        ),
        "made.npz",
    ),
    "evaluate": Command(
        evaluate.main,
        lambda i, out: [f"--workdir={i.run}/stage2", f"--out={out}"],
        "made.json",
    ),
    "compare": Command(
        compare.main,
        lambda i, out: (
            [f"--current={i.run}/stage1", f"--workdir={i.run}/stage2"]
            + [f"--table={i.table}", f"--out={out}"]
        ),
        "made.json",
    ),
    "export": Command(
        export.main,
        lambda i, out: [f"--workdir={i.run}/stage2", f"--out={out}"],
        "made",
    ),
    "index": Command(
        index.main,
        lambda i, out: (
            ["build", f"--workdir={i.run}/stage2", f"--table={i.table}"]
            + [f"--out={out}"]
        ),
        "made",
    ),
    "report": Command(
        report.main,
        lambda i, out: [f"--workdir={i.run}", f"--out={out}"],
        "made.html",
    ),
    "report categories": Command(
        report.main,
        lambda i, out: [f"--categories={i.shop}", f"--out={out}"],
        "made.html",
    ),
    "simulate": Command(
        simulate.main,
        lambda i, out: (
            [f"--table={i.shop}/data/table.csv", f"--out={out}"]
            + ["--searches=20", "--part=forward"]
        ),
        "made",
    ),
    "data.read": Command(
        read.main,
        lambda i, out: (
            ["folders", f"--root={i.album}", f"--out={out}"] + ["--overwrite"]
        ),
        "made.csv",
    ),
    "data.check": Command(
        check.main, lambda i, out: [f"--table={i.table}", "--images"], ""
    ),
    "sweep": Command(
        sweep.main,
        lambda i, out: [
            f"--categories={i.shop}",
            "--threshold=0.4",
            "--neighbors=5",
        ],
        "",
    ),
    "experiments": Command(
        experiments.main,
        lambda i, out: (
            [
                "--suite=main",
                "--methods=hypercolumns",
                f"--data=colors={i.folds}",
            ]
            + [f"--out={out}"]
        ),
        "made",
    ),
    "categorize": Command(
        categorize.main,
        lambda i, out: [f"--log={i.shop}/log", f"--out={i.shop}"],
        "",
    ),
}


def draw_album(folder: pathlib.Path) -> None:
    """Writes two categories of three images each."""
    rng = np.random.default_rng(0)
    for category in "ab":
        (folder / category).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / category / f"{number}.png")


def contents(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of every file in a folder, hidden or not."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
