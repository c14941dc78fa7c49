"""Kills the writer of an index repeatedly while another process searches it.

    python -m benchmarks.index_durability [--store=local] [--operations=10000] \
        [--kills=50] [--seed=0] [--folder=DIR] [--json=FILE]

A process upserts and deletes items, one operation per call, and logs when it
begins an operation and when the index has acknowledged it. It is killed by
SIGKILL at random moments and restarted. Meanwhile, this process searches the
same index. With --store=milvus, the index is in Milvus Lite, which only one
process can open: the writer then searches in another thread. After each kill:

- every acknowledged operation must be there: the index has the same items, with
  the same texts, fields and embeddings, as a dictionary to which the operations
  were applied;
- the interrupted operation must be there completely or not at all.

An item's embeddings and text identify the operation that wrote it. A search
must never show the text of one operation with the score of another.
"""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine, printing
from mixer_jax.runtime import terminal
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import encoding, place
from mixer_jax.service.stores.interface import Hit, Item, Store, Vector

DIM = 16
_IDS = 500  # distinct items
_DELAY = 0.004  # maximum seconds from the last acknowledgement to the kill
_NAMES = {"local": "index", "milvus": "index.db"}
# Milvus Lite then moves rows to files and merges these every few seconds.
_FLUSH = {"MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES": "100000"}
PROPERTIES = {
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
    add("--store", choices=tuple(_NAMES), default="local")
    add("--operations", type=int, default=10_000)
    add("--kills", type=int, default=50)
    add("--seed", type=int, default=0, help="seed of the random choices")
    add("--folder", default="", help="folder of the index (default: temporary)")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(given.folder or temporary)
        index = folder / _NAMES[given.store]
        row = run(index, given.operations, given.kills, seed=given.seed)
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
      folder: a new index; one of `_NAMES`.
      operations: the number of upserts and deletes.
      kills: the number of times the writer is killed.
      seed: the seed of all random choices.

    Returns:
      The fields of `Count`. `lost` counts acknowledged operations missing from
      the index, `torn` counts partially applied interrupted operations, and
      `wrong_hits` counts hits that mix operations.
    """
    os.environ.update(_FLUSH)
    index = place.find(folder)
    with index.draft(PROPERTIES) as made:
        made.publish()
    rng, begun = random.Random(seed), time.monotonic()
    moments = [*sorted(rng.sample(range(1, operations), kills)), operations]
    expected: dict[str, int] = {}
    count, start = Count(), 0
    with contextlib.ExitStack() as stack:
        shared = None
        if _is_shared(folder):
            shared = stack.enter_context(index.open())
        for moment in moments:
            log = folder.with_name(f"operations-from-{start}")
            writer = _start(folder, log, start, operations)
            count = _wait_until(moment, log, writer, shared, count)
            if moment < operations:
                time.sleep(rng.uniform(0, _DELAY))
                writer.kill()
            writer.join()
            count = _add_searches(log, count)
            opened = contextlib.nullcontext(shared) if shared else index.open()
            with opened as reader:
                count, start = _check(reader, log, start, expected, count)
    seconds = round(time.monotonic() - begun, 1)
    return {"operations": start, "kills": kills, "seconds": seconds} | (
        count._asdict()
    )


def _is_shared(folder: pathlib.Path) -> bool:
    """Returns whether several processes can open an index."""
    return folder.name != _NAMES["milvus"]


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
    with place.find(folder).open() as store:
        if not _is_shared(folder):
            given = {"target": _search, "args": (store, log), "daemon": True}
            threading.Thread(**given).start()
        for number in range(start, until):
            items, ids = operation(number)
            os.write(notes, b"b")
            if ids:
                store.delete(ids)
            else:
                store.upsert(items)
            os.write(notes, b"a")


def _search(store: Store, log: pathlib.Path) -> None:
    """Searches until the store is closed, and logs wrong hits."""
    notes = os.open(_searches(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    rng = np.random.default_rng(len(os.fspath(log)))
    with contextlib.suppress(UserError):
        while True:
            os.write(notes, b"s" + b"w" * _wrong_hits(store, rng))
            # Pause: searches delay the writes, which the kills should hit.
            time.sleep(rng.uniform(0, 10 * _DELAY))


def _searches(log: pathlib.Path) -> pathlib.Path:
    return log.with_name(f"{log.name}-searches")


def _add_searches(log: pathlib.Path, count: Count) -> Count:
    notes = _notes(_searches(log))
    return count._replace(
        searches=count.searches + notes.count(b"s"),
        wrong_hits=count.wrong_hits + notes.count(b"w"),
    )


def _wait_until(
    moment: int,
    log: pathlib.Path,
    writer: Any,
    reader: Store | None,
    count: Count,
) -> Count:
    """Waits until a total of `moment` operations are acknowledged.

    Args:
      moment: the number of operations.
      log: the file that the writer logs to.
      writer: the process.
      reader: the store to search meanwhile; None if the writer searches.
      count: the results so far.
    """
    rng = np.random.default_rng(moment)
    searches = wrong = 0
    while writer.is_alive():
        if count.acknowledged + _notes(log).count(b"a") >= moment:
            break
        if reader is None:
            time.sleep(_DELAY / 4)
            continue
        wrong += _wrong_hits(reader, rng)
        searches += 1
    return count._replace(
        searches=count.searches + searches, wrong_hits=count.wrong_hits + wrong
    )


def _wrong_hits(store: Store, rng: np.random.Generator) -> int:
    """Returns how many hits of a search mix the data of operations."""
    query = rng.standard_normal((1, DIM)).astype(np.float32)
    (hits,) = store.search(query, 20)
    return sum(not _is_right(normalize(query)[0], hit) for hit in hits)


def _is_right(query: np.ndarray, hit: Hit) -> bool:
    """Returns whether text, field and score come from one operation."""
    item = make_item(hit.id, int(hit.text))
    score = max(float(query @ vector.embedding) for vector in item.vectors)
    return hit.fields == item.fields and abs(score - hit.score) < 1e-5


def _notes(log: pathlib.Path) -> bytes:
    return log.read_bytes() if log.exists() else b""


def _check(
    reader: Store,
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
