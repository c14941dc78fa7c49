"""Several processes prepare the same files as a single process."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.prepared import generations
from mixer_jax.data.tables import table
from tests import several
from tests.data.prepared.samples import files_in

pytestmark = pytest.mark.slow
ROWS = 240


@pytest.fixture
def shop(tmp_path):
    """Writes a table of 240 samples; returns its path."""
    # The image is large, so that decoding all copies takes seconds.
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    for number in range(1, ROWS):
        shutil.copyfile(tmp_path / "0.png", tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"nothing")
    roles = ("query", "document")
    rows = [
        (f"s{n}", roles[n % 2], f"{n}.png", "", f"c{n // 4}", "", "train")
        for n in range(ROWS)
    ]
    path = tmp_path / "table.csv"
    table.write_table(pd.DataFrame(rows, columns=table.COLUMNS), path)
    return path


def begin(path, out, processes, cache, *more):
    """Starts preparing a table; returns the processes."""
    command = ["-m", "mixer_jax.data.prepare", f"--table={path}"]
    command += [f"--out={out}", "--shards=24", "--max-skipped=0.1", *more]
    return several.begin(command, processes, 1, cache)


def run(*given):
    return several.finish(begin(*given))


def bytes_of(out):
    """Returns the files of a version, except for the state of the table."""
    (manifest,) = out.rglob(generations.RECORD)
    folder = manifest.parent
    return {
        str(path.relative_to(folder)): content
        for path, content in files_in(folder)
        if path.name != "opened.json"
    }


def test_the_bytes_do_not_depend_on_the_processes(shop, tmp_path, compiled):
    found = {}
    for processes in (1, 2, 3):
        out = tmp_path / f"out{processes}"
        workers = ("--workers=1",) if processes == 2 else ()
        ended = run(shop, out, processes, compiled, *workers)
        assert [one.code for one in ended] == [0] * processes, ended
        assert "239 samples are prepared in" in ended[0].output
        assert "1 of 240 samples skipped" in ended[0].output
        assert not any("prepared" in one.output for one in ended[1:])
        found[processes] = bytes_of(out)
    assert len(found[1]) > 24
    assert found[1] == found[2] == found[3]
    # A second start has nothing to do.
    ended = run(shop, tmp_path / "out3", 2, compiled)
    assert [one.code for one in ended] == [0, 0], ended
    assert "Preparing" not in ended[0].error + ended[1].error
    assert bytes_of(tmp_path / "out3") == found[3]


def test_all_processes_write_shards(shop, tmp_path, compiled):
    """After all of them are killed, new processes resume."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(shop, whole, 1, compiled)[0].code == 0
    begun = begin(shop, out, 2, compiled)
    try:
        shares = set()
        while shares != {0, 1}:
            assert all(process.poll() is None for process in begun)
            names = [path.name for path in out.rglob("results/*.json")]
            # sample_table-train.array_record-00007-of-00024.json
            shares = {int(name.split("-")[2]) % 2 for name in names}
            time.sleep(0.01)
    finally:
        several.end_all()
    ended = run(shop, out, 3, compiled)
    assert [one.code for one in ended] == [0] * 3, ended
    assert bytes_of(out) == bytes_of(whole)


def test_different_tables_are_refused(shop, tmp_path, compiled):
    command = ["-m", "mixer_jax.data.prepare", f"--out={tmp_path / 'out'}"]
    other = tmp_path / "other.csv"
    table.write_table(table.read_table(shop).iloc[:-1], other)
    script = (
        "import sys; from mixer_jax.data import prepare;"
        f"tables = {[str(shop), str(other)]};"
        "place = int(sys.argv[-1].split('=')[1]);"
        "sys.exit(prepare.main(['--table=' + tables[place], *sys.argv[1:]]))"
    )
    command = ["-c", script, f"--out={tmp_path / 'out'}"]
    ended = several.finish(several.begin(command, 2, 1, compiled))
    assert [one.code for one in ended] == [2, 2], ended
    for one in ended:
        assert "of process 1 differs from that of process 0" in one.error
