"""Simulates a click log from known categories; no user made these clicks.

    python -m mixer_jax.demo.simulate --table=data/medium.csv --out=log

`click_model` describes the searches and the clicks. The output states that it
is simulated.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mixer_jax.categories.click_log import read_samples
from mixer_jax.demo.appearance import appearance
from mixer_jax.demo.click_model import Simulation, simulate
from mixer_jax.runtime import (
    command,
    files,
    numbers,
    parsing,
    results,
    terminal,
)
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock, guards
from mixer_jax.runtime.tabular.tables import find, writer


def write_log(
    table: str | Path,
    out: str | Path,
    settings: Simulation,
    part: str | None = None,
) -> None:
    """Simulates a click log for a sample table and writes it to a folder.

    Args:
      table: a sample table with the true categories.
      out: the folder for queries.csv, items.csv, clicks.csv, simulation.json
        and SIMULATION.md.
      settings: see `Simulation`.
      part: the part of the splits to use; "" uses every row. None means
        "forward" if the splits have parts, so that no image belongs to both a
        query and an item.

    Raises:
      UserError: if the table cannot be read or has no rows in this part.
    """
    table, out = Path(table), Path(out)
    frame = read_samples(table)
    if part is None:
        part = "forward" if frame["split"].str.contains("/").any() else ""
    if part:
        frame = frame[frame["split"].str.endswith("/" + part)]
    frame = frame[frame["image"] != ""]
    queries = frame[frame["role"] == "query"]
    items = frame[frame["role"] == "document"]
    if queries.empty or items.empty:
        raise UserError(
            f"{table} has no {'queries' if queries.empty else 'documents'} "
            f'with an image in part "{part}"; choose another with --part.'
        )
    # Assume that users know the name of the category that they search for.
    names = items.groupby("category_id")["text"].first()
    wanted = names.reindex(queries["category_id"]).fillna("")
    folder = table.parent
    clicks = simulate(
        queries["category_id"].tolist(),
        items["category_id"].tolist(),
        settings,
        appearance([folder / i for i in queries["image"]], wanted.tolist()),
        appearance(
            [folder / i for i in items["image"]], items["text"].tolist()
        ),
    )
    writers = {}
    # Resolve links first: `..` after a link leads to its target's parent.
    step = os.path.relpath(os.path.realpath(folder), os.path.realpath(out))
    for rows, name, key, columns in (
        (queries, "queries", "query_id", ["image"]),
        (items, "items", "item_id", ["image", "text"]),
    ):
        images = [Path(step, image).as_posix() for image in rows["image"]]
        written = rows.assign(image=images).rename(columns={"sample_id": key})
        path = out / f"{name}.csv"
        writers[path.name] = writer(written[[key, *columns]], path)
    drawn = pd.DataFrame(
        {
            "query_id": queries["sample_id"].to_numpy()[clicks["query"]],
            "item_id": items["sample_id"].to_numpy()[clicks["item"]],
            "exposures": clicks["exposures"],
            "clicks": clicks["clicks"],
        }
    )
    writers["clicks.csv"] = writer(drawn, out / "clicks.csv")
    note = {
        "simulation": True,
        "table": Path(step, table.name).as_posix(),
        "part": part,
        **dataclasses.asdict(settings),
        # Actual numbers; `clicks` overrides the requested number above.
        "exposures": int(clicks["exposures"].sum()),
        "clicks": int(clicks["clicks"].sum()),
    }
    text = json.dumps(note, indent=2) + "\n"
    writers["simulation.json"] = files.text_writer(text)
    writers["SIMULATION.md"] = files.text_writer(
        "# These clicks are simulated\n\nNo person made them: they were drawn "
        f"at random from the true categories of `{note['table']}` by "
        "`mixer_jax.demo.simulate`. simulation.json records all settings "
        "and the seed.\n"
    )
    files.make_folder(out)
    with guards.locked(out):
        results.deliver_all(out, writers, "The click log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.Parser(
        prog="python -m mixer_jax.demo.simulate",
        description="Simulates a click log from a table's true categories.",
    )
    add = parser.add_argument
    add("--table", required=True, help="the sample table")
    add("--out", required=True, help="output folder of the log")
    add("--part", help="part of the splits (default: 'forward', if any)")
    add("--seed", type=numbers.whole(0), default=0)
    add("--searches", type=numbers.number(0), default=Simulation.searches)
    add(
        "--clicks",
        type=numbers.whole(0),
        default=0,
        help="approximate number of clicks; overrides --searches",
    )
    add("--wrong", type=numbers.share, help="share of wrong clicks")
    given = parser.parse_args(arguments)
    settings = Simulation(
        seed=given.seed,
        searches=given.searches,
        clicks=given.clicks,
        wrong=given.wrong,
    )
    return command.run(lambda: _simulate(given, settings))


def _simulate(given: argparse.Namespace, settings: Simulation) -> None:
    names = ["queries.csv", "items.csv", "clicks.csv"]
    names += ["simulation.json", "SIMULATION.md"]
    files.check_folder(given.out, "The click log", names)
    _check_simulated(Path(given.out))
    with folder_lock.hold(given.out, "--out"):
        write_log(given.table, given.out, settings, given.part)
    terminal.say(
        f"Wrote a simulated click log to {given.out} (seed {given.seed})."
    )


def _check_simulated(out: Path) -> None:
    """Raises a `UserError` if a folder has a table that was not simulated."""
    for name in ("queries", "items", "clicks"):
        existing = find(out, name)
        if existing is not None and not (out / "simulation.json").is_file():
            raise UserError(
                f"{existing} is not part of a simulated click log: there is no "
                f"{out / 'simulation.json'}. Choose another folder with --out."
            )


if __name__ == "__main__":
    sys.exit(main())
