"""The logs and progress lines of a run."""

import io
import json
import math
import subprocess

import pytest
import rich.console

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.watch import logs
from mixer_jax.training.watch.appended import Appended


def lines(folder):
    return [
        json.loads(line)
        for line in (folder / logs.METRICS).read_text().splitlines()
    ]


def run(folder, first, last, **kwargs):
    output = io.StringIO()
    console = rich.console.Console(file=output, width=200)
    with logs.Logs(folder, "stage1", first, 10, 8, console) as log:
        for step in range(first + 1, last + 1):
            log.step(step, {"loss": float(step)})
            if step % 2 == 0:
                log.write(**kwargs)
        log.say("careful [not markup]")
    return output.getvalue()


def test_write_logs_means_since_the_last_line(tmp_path):
    output = run(tmp_path, 0, 4)
    first, second = lines(tmp_path)
    assert (first["step"], first["stage"], first["loss"]) == (2, "stage1", 1.5)
    assert (second["step"], second["loss"]) == (4, 3.5)
    assert second["samples_per_second"] > 0
    assert "stage1: step 4/10  loss 3.500" in output
    assert "careful [not markup]" in output


def test_graph_share_counts_from_the_first_step(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    console = rich.console.Console(file=io.StringIO())
    with logs.Logs(tmp_path, "stage1", 0, 10, 8, console) as log:
        log.graph(0, 50.0)  # not counted: before the first step
        log.step(1, {"loss": 1.0})
        log.graph(1, 3.0)
        now = 110.0
        log.write()
        now = 120.0
        log.write()
    built, again, first, second = lines(tmp_path)
    assert (built["graph_seconds"], again["graph_seconds"]) == (50.0, 3.0)
    assert first["graph_share"] == pytest.approx(3 / 10)
    assert second["graph_share"] == pytest.approx(3 / 20)


def test_unknown_rate_is_omitted(tmp_path):
    output = io.StringIO()
    console = rich.console.Console(file=output, width=200)
    with logs.Logs(tmp_path, "stage1", 0, 10, 8, console) as log:
        for step in (1, 2):
            log.step(step, {"loss": 1.5})
            log.write()
    first, second = output.getvalue().splitlines()
    assert first.strip() == "stage1: step 1/10  loss 1.500"
    assert "samples/s" in second
    assert lines(tmp_path)[0]["samples_per_second"] is None


def test_non_finite_values_become_null(tmp_path):
    run(tmp_path, 0, 2, recall=math.nan)
    assert lines(tmp_path)[0]["recall"] is None


def test_resumed_run_writes_no_step_twice(tmp_path):
    run(tmp_path, 0, 8)
    with open(tmp_path / logs.METRICS, "a") as file:
        file.write('{"step": 9, "st')  # killed while writing
    run(tmp_path, 4, 10)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10]


def test_tensorboard_files_are_written(tmp_path):
    run(tmp_path, 0, 4)
    (events,) = (tmp_path / logs.TENSORBOARD).iterdir()
    content = events.read_bytes()
    assert b"samples_per_second" in content
    assert b"loss" in content


def test_keep_until_drops_damaged_lines(tmp_path):
    path = tmp_path / logs.METRICS
    path.write_bytes(
        b'{"step": 1}\n\xff\x00\n[3]\n{"step": 2}\n{"step": 3}\n{"step": 4'
    )
    logs.keep_until(path, 2)
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


def test_full_disk_raises_an_error_and_leaves_whole_records(
    disk, capfd, tmp_path_factory, monkeypatch
):
    spare = tmp_path_factory.mktemp("spare")
    monkeypatch.chdir(spare)
    console = rich.console.Console(file=io.StringIO())

    def write(first, last):
        with logs.Logs(disk, "stage1", first, 9999, 8, console) as log:
            for step in range(first + 1, last + 1):
                log.step(step, {"loss": float(step)})
                log.write()

    with pytest.raises(UserError, match=r"No space left.*0.00 GB free") as full:
        write(0, 9999)
    assert str(disk) in str(full.value)
    assert capfd.readouterr().err == ""
    steps = [line["step"] for line in lines(disk)]
    assert steps == list(range(1, len(steps) + 1))
    (kept,) = spare.glob(f"rescued-*/{logs.METRICS}")
    assert str(kept) in console.file.getvalue().replace("\n", "")
    rest = [line["step"] for line in lines(kept.parent)]
    assert rest == list(range(steps[-1] + 1, 10_000))
    subprocess.run(["mount", "-o", "remount,size=300k", disk], check=True)
    write(steps[-1], steps[-1] + 2)
    assert [line["step"] for line in lines(disk)][-2:] == [
        steps[-1] + 1,
        steps[-1] + 2,
    ]


def test_pending_figures_are_written_on_exit(tmp_path, monkeypatch):
    whole = Appended.write

    def refuse(file, record):
        raise UserError("full")

    console = rich.console.Console(file=io.StringIO())
    log = logs.Logs(tmp_path, "stage1", 0, 10, 8, console)
    log.figures(1, {"loss": 1.0})
    monkeypatch.setattr(Appended, "write", refuse)
    log.figures(2, {"loss": 2.0})
    assert str(log.failure) == "full"
    monkeypatch.setattr(Appended, "write", whole)
    log.figures(3, {"loss": math.inf})
    with pytest.raises(UserError, match="full"):
        log.__exit__(None, None, None)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[2]["loss"] is None
