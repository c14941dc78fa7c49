"""Kills the writer of an index repeatedly while another process searches it.

    python -m benchmarks.index_durability [--operations=10000] [--kills=50] \
        [--seed=0] [--folder=DIR] [--json=FILE]

A process upserts and deletes items, one operation per transaction, and logs
when it begins an operation and when the index has acknowledged it. It is killed
by SIGKILL at random moments and restarted. Meanwhile, this process searches the
same folder. After each kill:

- every acknowledged operation must be there: the index has the same items, with
  the same texts, fields and embeddings, as a dictionary to which the operations
  were applied;
- the interrupted operation must be there completely or not at all.

An item's embeddings and text identify the operation that wrote it. A search
must never show the text of one operation with the score of another.
"""

import argparse
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine, printing
from mixer_jax.runtime import terminal
from mixer_jax.runtime.arrays import normalize
from mixer_jax.service.stores import encoding
from mixer_jax.service.stores.interface import Hit, Item, Vector
from mixer_jax.service.stores.local import LocalStore

DIM = 16
_IDS = 500  # distinct items
_DELAY = 0.004  # maximum seconds from the last acknowledgement to the kill
_PROPERTIES = {
    "dim": DIM,
    "storage": "f32",
    "fingerprint": "",
    "thumbnails": 0,
    "fields": {"operation": "number"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index_durability",
        description=__doc__.split("\n")[0],
    )
    add = parser.add_argument
    add("--operations", type=int, default=10_000)
    add("--kills", type=int, default=50)
    add("--seed", type=int, default=0, help="seed of the random choices")
    add("--folder", default="", help="folder of the index (default: temporary)")
    add("--json", default="", help="file to write the row to")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(given.folder or temporary) / "index"
        row = run(folder, given.operations, given.kills, seed=given.seed)
    _show(row, given.json)
    return int(bool(row["lost"] or row["torn"] or row["wrong_hits"]))


class Count(NamedTuple):
    """Results so far; `run` describes the fields."""

    acknowledged: int = 0
    interrupted: int = 0  # operations started but not acknowledged
    applied: int = 0  # interrupted operations found in the index
    lost: int = 0
    torn: int = 0
    searches: int = 0
    wrong_hits: int = 0


def run(
    folder: pathlib.Path, operations: int, kills: int, *, seed: int = 0
) -> dict[str, Any]:
    """Runs the experiment.

    Args:
      folder: the folder of a new index.
      operations: the number of upserts and deletes.
      kills: the number of times the writer is killed.
      seed: the seed of all random choices.

    Returns:
      The fields of `Count`. `lost` counts acknowledged operations missing from
      the index, `torn` counts partially applied interrupted operations, and
      `wrong_hits` counts hits that mix operations.
    """
    with LocalStore.draft(folder, _PROPERTIES) as made:
        made.publish()
    rng, begun = random.Random(seed), time.monotonic()
    moments = [*sorted(rng.sample(range(1, operations), kills)), operations]
    expected: dict[str, int] = {}
    count, start = Count(), 0
    with LocalStore.open(folder) as reader:
        for moment in moments:
            log = folder.with_name(f"operations-from-{start}")
            until = operations if moment < operations else moment
            writer = _start(folder, log, start, until)
            count = _search_until(moment, log, writer, reader, count)
            if moment < operations:
                time.sleep(rng.uniform(0, _DELAY))
                writer.kill()
            writer.join()
            count, start = _check(reader, log, start, expected, count)
    seconds = round(time.monotonic() - begun, 1)
    return {"operations": start, "kills": kills, "seconds": seconds} | (
        count._asdict()
    )


def operation(number: int) -> tuple[list[Item], list[str]]:
    """Returns the items that an operation upserts, and the IDs it deletes."""
    rng = random.Random(number)
    ids = [str(rng.randrange(_IDS)) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.3:
        return [], ids
    return [make_item(id, number) for id in dict.fromkeys(ids)], []


def make_item(id: str, number: int) -> Item:
    """Returns the item that an operation writes."""
    rng = np.random.default_rng([int(id), number])
    rows = normalize(rng.standard_normal((rng.integers(1, 4), DIM)))
    vectors = tuple(Vector(encoding.content(row), row) for row in rows)
    return Item(id, vectors, str(number), fields={"operation": number})


def _start(
    folder: pathlib.Path, log: pathlib.Path, start: int, until: int
) -> Any:
    """Starts a process that runs operations."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    writer = context.Process(target=_write, args=(folder, log, start, until))
    writer.start()
    return writer


def _write(
    folder: pathlib.Path, log: pathlib.Path, start: int, until: int
) -> None:
    # Output written to a file survives the process.
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with LocalStore.open(folder) as store:
        for number in range(start, until):
            items, ids = operation(number)
            os.write(notes, b"b")
            if ids:
                store.delete(ids)
            else:
                store.upsert(items)
            os.write(notes, b"a")


def _search_until(
    moment: int,
    log: pathlib.Path,
    writer: Any,
    reader: LocalStore,
    count: Count,
) -> Count:
    """Searches until `moment` operations in total are acknowledged."""
    rng, before = np.random.default_rng(moment), count.acknowledged
    while writer.is_alive():
        done = before + _notes(log).count(b"a")
        if done >= moment:
            break
        query = rng.standard_normal((1, DIM)).astype(np.float32)
        (hits,) = reader.search(query, 20)
        wrong = sum(not _is_right(normalize(query)[0], hit) for hit in hits)
        count = count._replace(
            searches=count.searches + 1, wrong_hits=count.wrong_hits + wrong
        )
    return count


def _is_right(query: np.ndarray, hit: Hit) -> bool:
    """Returns whether text, field and score come from one operation."""
    item = make_item(hit.id, int(hit.text))
    score = max(float(query @ vector.embedding) for vector in item.vectors)
    return hit.fields == item.fields and abs(score - hit.score) < 1e-5


def _notes(log: pathlib.Path) -> bytes:
    return log.read_bytes() if log.exists() else b""


def _check(
    reader: LocalStore,
    log: pathlib.Path,
    start: int,
    expected: dict[str, int],
    count: Count,
) -> tuple[Count, int]:
    """Compares the index with the operations logged by a writer.

    Returns:
      The counts, and the number of the next operation.
    """
    notes = _notes(log)
    done, next_one = start + notes.count(b"a"), start + notes.count(b"b")
    for number in range(start, done):
        _apply(expected, number)
    after = dict(expected)
    for number in range(done, next_one):  # at most one: the interrupted one
        _apply(after, number)
    found = {item.id: item for part in reader.iterate(100) for item in part}
    outcome = _compare(found, expected, after)
    if outcome == "applied":
        expected.clear()
        expected.update(after)
    return count._replace(
        acknowledged=count.acknowledged + done - start,
        interrupted=count.interrupted + next_one - done,
        applied=count.applied + (outcome == "applied"),
        lost=count.lost + (outcome == "lost"),
        torn=count.torn + (outcome == "torn"),
    ), next_one


def _compare(
    found: dict[str, Item], before: dict[str, int], after: dict[str, int]
) -> str:
    """Returns the outcome of an interrupted operation, or "lost".

    Args:
      found: the items in the index.
      before: the expected items without the interrupted operation.
      after: the expected items with the interrupted operation.
    """
    if _equal(found, before):
        return "not applied"
    if _equal(found, after):
        return "applied"
    touched = {id for id in before | after if before.get(id) != after.get(id)}
    others = {id: n for id, n in before.items() if id not in touched}
    rest = {id: item for id, item in found.items() if id not in touched}
    return "torn" if _equal(rest, others) else "lost"


def _apply(expected: dict[str, int], number: int) -> None:
    """Records the last operation that wrote each item."""
    items, ids = operation(number)
    for id in ids:
        expected.pop(id, None)
    expected.update({item.id: number for item in items})


def _equal(found: dict[str, Item], expected: dict[str, int]) -> bool:
    return found.keys() == expected.keys() and all(
        _equal_one(found, id, number) for id, number in expected.items()
    )


def _equal_one(found: dict[str, Item], id: str, number: int) -> bool:
    """Returns whether an item is exactly what an operation wrote."""
    if id not in found:
        return False
    wanted, item = make_item(id, number), found[id]
    if len(item.vectors) != len(wanted.vectors):
        return False
    pairs = zip(item.vectors, wanted.vectors, strict=True)
    return (item.text, item.fields) == (wanted.text, wanted.fields) and all(
        np.allclose(one.embedding, other.embedding, atol=1e-6)
        for one, other in pairs
    )


def _show(row: dict[str, Any], path: str) -> None:
    table = terminal.Table("", "count", title="Repeatedly killed writer")
    for name, value in row.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    printing.show(table, [row | machine.describe(jax.devices())], 60, path)


if __name__ == "__main__":
    sys.exit(main())
