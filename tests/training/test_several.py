"""Runs with several processes, whose number may change."""

import json
import re
import resource
import shutil
import signal
import time

import numpy as np
import pytest

from mixer_jax.runtime import processes
from mixer_jax.training.checkpoint import checksums, row_files
from mixer_jax.training.checkpoint import workdir as workdir_lib
from tests import several

# Each test starts several processes or a whole curriculum.
pytestmark = pytest.mark.slow

STAGES = ("stage1", "stage2", "stage3")


def losses(workdir, stage):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def stopped(begin, tmp_path_factory):
    """A workdir used by 2, 1, then 4 processes; SIGTERM to one stops all."""
    workdir = tmp_path_factory.mktemp("stopped")
    for count in (2, 1):
        begun = begin(workdir, count)
        time.sleep(1)
        wait_for_step(begun[0])
        begun[-1].send_signal(signal.SIGTERM)
        for ended in several.finish(begun):
            assert ended.code == processes.PREEMPTED, ended.error
    for index, ended in enumerate(several.finish(begin(workdir, 4))):
        assert ended.code == 0, ended.error
        # Only process 0 prints.
        assert ("stage3: " in ended.output) == (index == 0)
    return workdir


def test_stopped_run_resumes_with_other_process_counts(stopped, whole):
    for stage in STAGES:
        one, many = losses(whole, stage), losses(stopped, stage)
        # Every step is logged once, even if it was repeated.
        assert list(one) == list(many) == list(range(1, 13))
        np.testing.assert_allclose(
            list(many.values()), list(one.values()), rtol=1e-5
        )


def wait_for_step(process):
    """Reads the output of a process until it has taken a step."""
    for line in process.stdout:
        if "step" in line:
            return
    pytest.fail(f"The process ended early: {process.stderr.read()}")


def test_unshared_workdir_is_rejected(begin, tmp_path, monkeypatch):
    """Two processes resolve a relative workdir to different folders."""
    places = iter([tmp_path / "host0", tmp_path / "host1"])
    real = several.subprocess.Popen

    def elsewhere(*arguments, **options):
        folder = next(places)
        folder.mkdir()
        return real(*arguments, **(options | {"cwd": folder}))

    monkeypatch.setattr(several.subprocess, "Popen", elsewhere)
    for ended in several.finish(begin("run", 2)):
        assert ended.code == processes.WRONG
        assert "The workdir run/stage1 of process 1 (on " in ended.error
        assert "gs://BUCKET" in ended.error
        assert "Traceback" not in ended.error


def test_damaged_checkpoint_is_moved_with_several_processes(
    begin, whole, tmp_path
):
    shutil.copytree(whole / "stage1", tmp_path / "stage1")
    folder = tmp_path / "stage1" / workdir_lib.CHECKPOINTS
    assert sorted(path.name for path in folder.iterdir()) == ["12", "8"]
    shutil.rmtree(folder / "12")
    shutil.copytree(folder / "8", folder / "4")
    (folder / "4" / checksums.FILE).unlink()
    about = folder / "4" / "_CHECKPOINT_METADATA"
    recorded = json.loads(about.read_text())
    recorded["custom_metadata"]["step"] = 4
    about.write_text(json.dumps(recorded))
    (folder / "8" / "iterator" / "metadata").write_text("{}")
    for index, ended in enumerate(several.finish(begin(tmp_path, 2))):
        assert ended.code == 0, ended.error
        assert ("was moved to" in ended.output) == (index == 0)


def test_one_process_reads_proxies_of_several(stopped, whole):
    one, many = (
        np.concatenate([*row_files.open_proxies(workdir / "stage3").blocks()])
        for workdir in (whole, stopped)
    )
    np.testing.assert_allclose(many, one, atol=1e-4)


def test_full_disk_raises_one_error(begin, whole, tmp_path):
    """Limits files to 12 KiB, less than a table of vectors needs.

    How smaller arrays share files varies, so the limit targets a table.
    """
    shutil.copytree(whole / "stage1", tmp_path / "stage1")
    shutil.rmtree(tmp_path / "stage1" / workdir_lib.CHECKPOINTS / "12")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 2**10, before[1]))
    try:
        begun = begin(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (ended,) = several.finish(begun)
    assert ended.code == processes.WRONG
    # Background writes may log errors before and after this error.
    sentence = "error: A checkpoint cannot be written to .*"
    found = re.findall(sentence, ended.error)
    assert len(found) == 1, ended.error
    (message,) = found
    assert "_SignalingThread" not in ended.error
    assert "File too large. The checkpoint of step 8 is intact" in message
    assert workdir_lib.latest_step(tmp_path / "stage1") == 8
