r"""Builds and changes a search index: items with embeddings.

    python -m mixer_jax.index build --workdir=runs/quickstart/stage3 \
        --table=runs/quickstart/data/medium.csv --out=runs/quickstart/index

An index is a folder, or in Milvus: --out=./shop.db or http://localhost:19530.
Other forms: add, calibrate, delete, info, rebuild, roll-back, export; `FORM
--help` lists options. Search an index with `python -m mixer_jax.serve`.
"""

import sys
from collections.abc import Sequence
from typing import Any

from mixer_jax.runtime import command, terminal
from mixer_jax.runtime.text import counted
from mixer_jax.service import (
    building,
    calibrating,
    exporting,
    forms,
    rebuilding,
    upkeep,
)
from mixer_jax.service.stores import fields as fields_lib


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return command.run(lambda: _run(arguments))


def _run(arguments: list[str]) -> None:
    form = arguments[0] if arguments else ""
    if form in ("-h", "--help"):
        terminal.say(f"{__doc__}\nForms:\n\n{forms.listing()}")
        return
    given = vars(forms.make_parser(form).parse_args(arguments[1:]))
    _WORK[form](**given)


def _build(*, out: str, fields: str = "", **options: Any) -> None:
    kinds = fields_lib.parse(fields) if fields else {}
    summary = building.build(out, kinds=kinds, **options)
    _report(summary)
    terminal.say(f"Wrote an index of {summary} to {out}")
    if summary.recall:
        terminal.say(f"Recall against exact search: {summary.recall}")


def _add(*, index: str, **options: Any) -> None:
    summary = building.add(index, **options)
    _report(summary)
    same = summary.rows - summary.written - summary.skipped.count
    terminal.say(
        f"Added or changed {counted(summary.written, 'row')}; {same:,} "
        f"{'was' if same == 1 else 'were'} unchanged. The index {index} has "
        f"{summary}"
    )


def _report(summary: building.Summary) -> None:
    if summary.skipped.count:
        terminal.say(summary.skipped.with_examples())


def _calibrate(*, index: str, **options: Any) -> None:
    fitted = calibrating.calibrate(index, **options)
    terminal.say(f"Calibrated {index}: {fitted}")
    if fitted.warning():
        terminal.say(fitted.warning())


def _delete(*, index: str, id: Sequence[str] = (), ids: str = "") -> None:
    deleted, unknown = upkeep.delete(index, id, ids or None)
    message = f"Deleted {counted(deleted, 'item')} of {index}"
    if unknown:
        message += f"; it has no item for {counted(unknown, 'other ID')}"
    terminal.say(message)


def _info(*, index: str) -> None:
    terminal.say(*upkeep.describe(index))


def _rebuild(*, index: str, workdir: str, **options: Any) -> None:
    count, copies = rebuilding.rebuild(index, workdir, **options)
    items = counted(count, "item")
    terminal.say(f"Embedded {items} of {index} with {workdir}")
    if copies:
        pictures = counted(copies, "missing picture")
        terminal.say(f"Used the thumbnails of {pictures}")


def _roll_back(*, index: str) -> None:
    terminal.say(upkeep.roll_back(index))


def _export(*, index: str, out: str) -> None:
    rows = counted(exporting.export(index, out), "row")
    terminal.say(f"Wrote {rows} to {out}")


_WORK = dict(build=_build, add=_add, delete=_delete, info=_info)
_WORK |= dict(calibrate=_calibrate, rebuild=_rebuild, export=_export)
_WORK["roll-back"] = _roll_back

if __name__ == "__main__":
    sys.exit(main())
