"""The table of the costs of compiled programs."""

import io

import rich.console

from mixer_jax.compiled.abstract_pod import Row
from mixer_jax.reports import programs

STEP = Row(
    stage="stage2",
    head="knn",
    program="step",
    topology="v5e:16x16",
    chips=256,
    categories=100_000_000,
    batch_size=1024,
    beside=0,
    arguments=1_429_000_000,
    temporaries=455_000_000,
    outputs=1_400_000_000,
    aliased=1_399_000_000,
    total=1_885_000_000,
    capacity=16e9,
    flops=456.2e9,
    bytes=4_826_000_000,
    collectives={"all-reduce": {"number": 8, "bytes": 20_000_000}},
    collective_bytes=20_000_000,
    unknown_loops=1,
    compute_ms=2.316,
    memory_ms=5.893,
    collective_ms=0.1,
    roofline_ms=5.893,
    compile_seconds=90.0,
)


def test_table_has_every_figure():
    file = io.StringIO()
    table = programs.console_table([STEP])
    rich.console.Console(file=file, width=100).print(table)
    lines = {
        line.split("  ")[1]: line.rsplit("  ", 2)[1].strip()
        for line in file.getvalue().splitlines()
        if line.startswith("  ")
    }
    assert "100,000,000 categories, knn head" in file.getvalue()
    assert lines["HBM: outputs, not aliased"] == "0.001 GB"
    assert lines["HBM: total, of 16 GB"] == "1.885 GB"
    assert lines["FLOPs"] == "456.2 G"
    assert lines["all-reduces: count, bytes"] == "8, 0.020 GB"
    assert lines["loops counted as one iteration"] == "1"
    assert lines["roofline: maximum"] == "5.893 ms"
