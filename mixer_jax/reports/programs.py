"""Table of the per-chip costs of compiled programs."""

from collections.abc import Sequence

from mixer_jax.compiled.abstract_pod import Row
from mixer_jax.runtime import terminal


def console_table(rows: Sequence[Row]) -> terminal.Table:
    """Returns the table of one stage's programs, one per column."""
    first = rows[0]
    table = terminal.Table(
        title=(
            f"{first.stage} on {first.chips} chips, {first.topology}\n"
            f"{first.categories:,} categories, {first.head} head, "
            f"batch of {first.batch_size}\nFigures per chip:"
        ),
        box=terminal.SIMPLE,
        title_justify="left",
    )
    table.add_column("")
    for row in rows:
        table.add_column(row.program, justify="right", no_wrap=True)

    add = table.add_row
    for name, key in (
        ("HBM: other state", "beside"),
        ("HBM: arguments", "arguments"),
        ("HBM: temporaries", "temporaries"),
    ):
        add(name, *(_gigabytes(getattr(row, key)) for row in rows))
    add(
        "HBM: outputs, not aliased",
        *(_gigabytes(row.outputs - row.aliased) for row in rows),
    )
    add(
        f"HBM: total, of {first.capacity / 1e9:.0f} GB",
        *(_gigabytes(row.total) for row in rows),
        end_section=True,
    )
    add("FLOPs", *(f"{row.flops / 1e9:,.1f} G" for row in rows))
    add("HBM bytes accessed", *(_gigabytes(row.bytes) for row in rows))
    for kind in sorted({kind for row in rows for kind in row.collectives}):
        counts = [row.collectives.get(kind) for row in rows]
        add(
            f"{kind}s: count, bytes",
            *(
                f"{one['number']:,}, {_gigabytes(one['bytes'])}" if one else "-"
                for one in counts
            ),
        )
    unknown = [row.unknown_loops for row in rows]
    if any(unknown):
        add("loops counted as one iteration", *map(str, unknown))
    table.add_section()
    for name, key in (
        ("FLOPs / peak", "compute_ms"),
        ("bytes / HBM bandwidth", "memory_ms"),
        ("collectives / ICI bandwidth", "collective_ms"),
        ("roofline: maximum", "roofline_ms"),
    ):
        add(name, *(f"{getattr(row, key):,.3f} ms" for row in rows))
    return table


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.3f} GB"
