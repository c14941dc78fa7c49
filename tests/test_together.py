"""Several processes give the results of one: embed, evaluate, categorize."""

import json
import shutil
import time

import numpy as np
import pytest

from mixer_jax.retrieval import evaluate
from tests import several, shop, small_encoders

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
    assert (
        "The baselines can only be evaluated by one process" in ended[0].error
    )


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


def encoded(root):
    """Returns the parts that were encoded, in sorted order."""
    log = root / "encoded.log"
    return sorted(log.read_text().splitlines()) if log.exists() else []


@pytest.fixture
def shops(tmp_path):
    """Makes copies of a shop's images and click log."""
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
        assert len(encoded(root)) == 10  # 8 parts of images and 2 of texts
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
    try:
        while len(encoded(root)) < 6:
            assert all(process.poll() is None for process in begun)
            time.sleep(0.1)
    finally:
        several.end_all()  # with SIGKILL
    finished = list(root.glob(".features.npz.parts/*/*.npz"))
    assert len(finished) == 6
    # A part that was damaged is encoded again.
    finished[0].write_bytes(finished[0].read_bytes()[:-40])
    ended = several.finish(categorize(root, 4, compiled))
    assert [one.code for one in ended] == [0] * 4, ended
    assert len(encoded(root)) == 11
    assert len(set(encoded(root))) == 10
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
