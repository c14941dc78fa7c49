"""Multi-process embed, evaluate and categorize match a single process."""

import json
import shutil
import time

import numpy as np
import pytest

from mixer_jax.retrieval import evaluate
from mixer_jax.retrieval.sharded import reading
from tests import several, shop, small_encoders

pytestmark = pytest.mark.slow
DEVICES = 4  # over all processes


def start(command, processes, compiled, *arguments, **variables):
    """Starts a command of the color model; returns its processes."""
    script = str(several.ROOT / "tests/color_model.py")
    words = [script, command, *map(str, arguments)]
    devices = DEVICES // processes
    return several.begin(words, processes, devices, compiled, True, **variables)


def run(command, processes, compiled, *arguments):
    """Runs a command of the color model; returns exit codes and outputs."""
    return several.finish(start(command, processes, compiled, *arguments))


def logged(path):
    """Returns the parts logged by the processes."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line != "stalled"]


def kill_stalled(begun, log, count):
    """Kills the processes once the log shows `count` stalls."""
    try:
        while not log.exists() or log.read_text().count("stalled") < count:
            assert all(process.poll() is None for process in begun)
            time.sleep(0.1)
    finally:
        several.end_all()  # with SIGKILL


def printed(ended):
    """Returns the lines printed by a process, except Gloo's."""
    lines = ended.output.splitlines()
    return [line for line in lines if "peer ranks" not in line]


def test_embeddings_are_the_same(color_run, colors, tmp_path, compiled):
    root, _ = colors
    (root / "red_query_forward.png").write_bytes(b"nothing")
    found = {}
    for processes in (1, 2):
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
    for name, wanted in found[1].items():
        np.testing.assert_array_equal(found[2][name], wanted)


def contents(folder):
    """Returns the bytes of all files in a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folders_of_embeddings_are_the_same(
    color_run, colors, tmp_path, compiled
):
    root, _ = colors
    (root / "red_query_forward.png").write_bytes(b"nothing")
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path / f"{processes}"
        ended = run(
            *("embed", processes, compiled, "--batch-size=8"),
            *("--shard-rows=3", "--max-skipped=0.1"),
            *(f"--workdir={color_run / 'stage2'}", f"--out={out}"),
            f"--table={root / 'colors.csv'}",
        )
        assert [one.code for one in ended] == [0] * processes, ended
        assert "1 of 24 samples skipped" in ended[0].output
        assert "8 shards of the embeddings of 24 samples" in ended[0].error
        assert not any(map(printed, ended[1:]))
        found[processes] = contents(out)
    assert len([name for name in found[1] if name.endswith(".parquet")]) == 8
    assert len(reading.read(tmp_path / "1").query_ids) == 11
    assert found[1] == found[2] == found[4]


def test_embed_resumes_after_a_kill(color_run, colors, tmp_path, compiled):
    given = [
        *("--batch-size=8", "--shard-rows=3"),
        *(f"--workdir={color_run / 'stage2'}",),
        f"--table={colors[0] / 'colors.csv'}",
    ]
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    (ended,) = run("embed", 1, compiled, f"--out={whole}", *given)
    assert ended.code == 0, ended.error
    given.append(f"--out={out}")
    for processes, stall, stalled in ((2, "2", 2), (1, "1", 3)):
        observed = {"LOG": str(log), "STALL": stall}
        begun = start("embed", processes, compiled, *given, **observed)
        kill_stalled(begun, log, stalled)
        assert not (out / "manifest.json").exists()
    ended = several.finish(start("embed", 4, compiled, *given, LOG=str(log)))
    assert [one.code for one in ended] == [0] * 4, ended
    assert "5 of 8 shards are finished" in ended[0].error
    assert len(logged(log)) == len(set(logged(log))) == 8
    assert contents(out) == contents(whole)


def test_measures_are_the_same(color_run, tmp_path, compiled):
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path / f"{processes}.json"
        given = f"--workdir={color_run}", f"--out={out}"
        begun = start("evaluate", processes, compiled, *given, BLOCK="3")
        ended = several.finish(begun)
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
    assert "looks like a file" in ended[0].error


def test_baselines_need_one_process(color_run, compiled):
    ended = run(
        *("evaluate", 2, compiled, f"--workdir={color_run}", "--baselines"),
    )
    assert [one.code for one in ended] == [2, 2]
    assert "baselines can only be evaluated by one process" in ended[0].error


def categorize(root, processes, compiled, **variables):
    """Starts categorize with small encoders; returns its processes."""
    script = str(several.ROOT / "tests/small_encoders.py")
    given = [f"--log={root / 'log'}", f"--out={root}", *small_encoders.FLAGS]
    return several.begin(
        [script, "categorize", *given],
        *(processes, DEVICES // processes, compiled, True),
        PARTS="32",
        LOG=str(root / "encoded.log"),
        **variables,
    )


@pytest.fixture
def shops(tmp_path):
    """Returns a function that copies a shop's images and click log."""
    shop.build(tmp_path / "shop")

    def copy(name):
        for folder in ("data", "log"):
            source = tmp_path / "shop" / folder
            shutil.copytree(source, tmp_path / name / folder)
        return tmp_path / name

    return copy


def test_categories_are_the_same(shops, compiled):
    features, tables = {}, {}
    for processes in (1, 2, 4):
        root = shops(f"{processes}")
        ended = several.finish(categorize(root, processes, compiled))
        assert [one.code for one in ended] == [0] * processes, ended
        assert not any(map(printed, ended[1:]))
        assert "240 images and 60 texts need 0.00 GB" in ended[0].error
        # 8 image parts and 2 text parts
        assert len(logged(root / "encoded.log")) == 10
        with np.load(root / "features.npz") as arrays:
            features[processes] = arrays["image"], arrays["text"]
        tables[processes] = (root / "found.csv").read_text()
        assert not list(root.glob(".features*"))
    assert features[1][0].shape == (240, 24)
    assert features[1][0].any(axis=1).all()
    for processes in (2, 4):
        for found, wanted in zip(features[processes], features[1], strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert tables[processes] == tables[1]


def test_categorize_resumes_after_a_kill(shops, compiled):
    whole, root = shops("whole"), shops("killed")
    (ended,) = several.finish(categorize(whole, 1, compiled))
    assert ended.code == 0, ended.error
    begun = categorize(root, 2, compiled, STALL="3")
    log = root / "encoded.log"
    kill_stalled(begun, log, 2)
    finished = list(root.glob(".features.npz.parts/*/*.npz"))
    assert len(finished) == 6
    # A damaged part is encoded again.
    finished[0].write_bytes(finished[0].read_bytes()[:-40])
    ended = several.finish(categorize(root, 4, compiled))
    assert [one.code for one in ended] == [0] * 4, ended
    assert (len(logged(log)), len(set(logged(log)))) == (11, 10)
    with (
        np.load(root / "features.npz") as found,
        np.load(whole / "features.npz") as wanted,
    ):
        for name in ("image", "text"):
            np.testing.assert_array_equal(found[name], wanted[name])


def test_an_error_ends_categorize_in_all_processes(shops, compiled):
    root = shops("broken")
    for image in (root / "data" / "images").glob("q1*.png"):
        image.write_bytes(b"nothing")
    ended = several.finish(categorize(root, 2, compiled))
    assert [one.code for one in ended] == [2, 2]
    for one in ended:
        assert "of 240 samples skipped: unreadable images" in one.error
