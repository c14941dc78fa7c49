"""Embeds and evaluates tables in tests, in every supported way."""

import json

import numpy as np

from mixer_jax import embed, evaluate
from mixer_jax.retrieval.sharded import reading


def measure(table, run, folder):
    """Returns the measures of a run on a table, and the embeddings as lists.

    Embeds the table into a file and, twice, into a folder, and checks that
    the embeddings agree.

    Args:
      table: the path of the sample table.
      run: the workdir of a stage.
      folder: a new folder for the output.
    """
    folder.mkdir()
    given = [f"--table={table}", f"--workdir={run}"]
    assert embed.main([*given, f"--out={folder / 'one.npz'}"]) == 0
    assert evaluate.main([*given, f"--out={folder / 'rows.json'}"]) == 0
    for _ in range(2):  # The second time, the shards are kept.
        shards = [f"--out={folder / 'parts'}", "--shard-rows=5"]
        assert embed.main([*given, *shards]) == 0
    one, parts = (
        reading.read(folder / "one.npz"),
        reading.read(folder / "parts"),
    )
    for whole, divided in zip(one, parts, strict=True):
        if whole.dtype == np.float32:
            np.testing.assert_allclose(whole, divided, atol=1e-6)
        else:
            np.testing.assert_array_equal(whole, divided)
    rows = json.loads((folder / "rows.json").read_text())
    figures = [row | {"seconds": 0} for row in rows]
    with np.load(folder / "one.npz") as arrays:
        return figures, [array.tolist() for array in arrays.values()]
