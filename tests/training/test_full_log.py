"""The log's disk is full, but checkpoints can be written."""

import contextlib
import json
import re
import shutil

import pytest

from mixer_jax.runtime import processes
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.watch import logs
from tests import several

PAGE = 4096


def fill(disk, left):
    """Fills a file system until `left` bytes are free."""
    with open(disk / "filler", "wb", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while True:
                filler.write(bytes(PAGE))
        filler.truncate(filler.tell() - left)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_full_log_disk_stops_the_run_after_a_save(begin, disk, tmp_path, count):
    folder = tmp_path / "run" / "stage1"
    folder.mkdir(parents=True)
    for name in (logs.METRICS, logs.TENSORBOARD):
        (folder / name).symlink_to(disk / name)
    (disk / logs.TENSORBOARD).mkdir()
    # Three more lines fill the page.
    line = json.dumps({"step": 0, "there": "x" * 2300})
    (disk / logs.METRICS).write_text(f"{line}\n")
    fill(disk, PAGE)
    messages = []
    for ended in several.finish(begin(tmp_path / "run", count)):
        assert ended.code == processes.WRONG, ended.error
        assert "Traceback" not in ended.error
        messages += [x for x in ended.error.splitlines() if "error: " in x]
        for rescued in re.findall(
            r"\S*rescued-\w+", ended.output + ended.error
        ):
            shutil.rmtree(rescued, ignore_errors=True)
    assert len(messages) == count
    for sentence in messages:
        assert "The log cannot be written to " in sentence
        assert "Free some space, then run the same command again." in sentence
    saved = workdir_lib.latest_step(folder)
    assert saved > len((disk / logs.METRICS).read_text().splitlines()) - 1
    (disk / "filler").unlink()
    for ended in several.finish(begin(tmp_path / "run", count)):
        assert ended.code == 0, ended.error
    lines = (disk / logs.METRICS).read_text().splitlines()
    steps = {json.loads(line)["step"] for line in lines}
    assert steps >= {*range(saved + 1, 13)}
