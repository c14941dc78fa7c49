"""Several processes embed and evaluate a table as one process does."""

import json

import numpy as np
import pytest

from mixer_jax.retrieval import evaluate
from tests import several

pytestmark = pytest.mark.slow
DEVICES = 4  # over all processes


def run(command, processes, compiled, *arguments):
    """Runs a command of the color model; returns its processes' endings."""
    script = str(several.ROOT / "tests/color_model.py")
    words = [script, command, *map(str, arguments)]
    devices = DEVICES // processes
    return several.finish(
        several.begin(words, processes, devices, compiled, True)
    )


def printed(ended):
    """Returns the lines that a process printed, except those of Gloo."""
    lines = ended.output.splitlines()
    return [line for line in lines if "peer ranks" not in line]


def test_embeddings_are_the_same(color_run, colors, tmp_path, compiled):
    root, _ = colors
    (root / "red_query_forward.png").write_bytes(b"nothing")
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path / f"{processes}.npz"
        ended = run(
            *("embed", processes, compiled, "--batch-size=4"),
            *("--max-skipped=0.1", f"--workdir={color_run / 'stage2'}"),
            *(f"--table={root / 'colors.csv'}", f"--out={out}"),
        )
        assert [one.code for one in ended] == [0] * processes, ended
        assert "1 of 24 samples skipped" in ended[0].output
        assert not any(map(printed, ended[1:]))
        with np.load(out) as arrays:
            found[processes] = dict(arrays)
    assert len(found[1]["query_ids"]) == 11
    for processes in (2, 4):
        for name, wanted in found[1].items():
            np.testing.assert_array_equal(found[processes][name], wanted)


def test_measures_are_the_same(color_run, tmp_path, compiled):
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path / f"{processes}.json"
        ended = run(
            *("evaluate", processes, compiled),
            *(f"--workdir={color_run}", f"--out={out}"),
        )
        assert [one.code for one in ended] == [0] * processes, ended
        found[processes] = json.loads(out.read_text())
        assert not any(map(printed, ended[1:]))
    assert found[1]
    for processes in (2, 4):
        for row, wanted in zip(found[processes], found[1], strict=True):
            assert row.keys() == wanted.keys()
            for name in set(row) - {"seconds"}:
                want = wanted[name]
                if name in evaluate.MEASURES:
                    want = pytest.approx(want, abs=1e-6)
                assert row[name] == want, name


def test_an_error_ends_all_processes(color_run, colors, compiled):
    root, _ = colors
    ended = run(
        *("embed", 2, compiled, f"--workdir={color_run / 'stage2'}"),
        *(f"--table={root / 'colors.csv'}", f"--out={root / 'colors.csv'}"),
    )
    assert [one.code for one in ended] == [2, 2]
    assert "does not end in .npz" in ended[0].error


def test_baselines_need_one_process(color_run, compiled):
    ended = run(
        *("evaluate", 2, compiled, f"--workdir={color_run}", "--baselines"),
    )
    assert [one.code for one in ended] == [2, 2]
    assert "baselines can only be evaluated by one process" in ended[0].error
