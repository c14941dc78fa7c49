"""Training a stage from the first step to the last, with interruptions."""

import contextlib
import gc
import io
import json
import multiprocessing
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import rich.console

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.prepared import opening
from mixer_jax.data.tables import table
from mixer_jax.runtime import command, identity
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock, owner_record, owner_store
from mixer_jax.training import initialize, loop
from mixer_jax.training import step as step_lib
from mixer_jax.training.checkpoint import checkpoints
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.watch.monitors import MonitorError
from tests import broken_files


class KilledError(Exception):
    """Simulates anything that kills a run."""


def train_until_killed(steps, config, folder, kill_at=5):
    steps.kill_at = kill_at
    with pytest.raises(KilledError):
        train(config, folder)
    steps.kill_at = None


def train(config, folder, num_devices=2):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    console = rich.console.Console(file=io.StringIO(), width=200)
    return loop.train(config, folder, mesh, console), console.file.getvalue()


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def steps(monkeypatch):
    """Records every jitted step and kills the run before step `kill_at`."""

    class Steps:
        jitted = ()
        kill_at = None

    seen = Steps()
    make = step_lib.make_train_step

    def spy(*args):
        step = make(*args)
        seen.jitted += (step,)
        calls = iter(range(1000))

        def run(state, batch):
            if next(calls) == seen.kill_at:
                raise KilledError
            return step(state, batch)

        return run

    monkeypatch.setattr(step_lib, "make_train_step", spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("head", ["exact", "knn"])
def test_resumed_run_equals_an_uninterrupted_one(
    toy, tiny_config, tmp_path, steps, head
):
    tiny_config.head.name = head
    if head == "exact":
        tiny_config.optimizer.average = 0.9
    whole, output = train(tiny_config, tmp_path / "whole")
    assert "step 8/8" in output
    assert "parameters.txt lists them" in output
    listed = (tmp_path / "whole" / "parameters.txt").read_text()
    for path in ("image_encoder/", "proxies"):
        assert path in listed
    train_until_killed(steps, tiny_config, tmp_path / "broken")
    assert workdir_lib.latest_step(tmp_path / "broken") == 3
    resumed, _ = train(tiny_config, tmp_path / "broken")
    equal(resumed, whole)
    # One compilation per run, even with rebuilt graphs and restored states.
    assert [step._cache_size() for step in steps.jitted] == [1, 1, 1]
    for folder in ("whole", "broken"):
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        logged = [line["step"] for line in lines if "loss" in line]
        assert logged == [2, 4, 6, 8]
        assert any("proxy_cosine" in line for line in lines)
        shares = [
            line["graph_share"] for line in lines if "graph_share" in line
        ]
        assert any(shares) == (head == "knn")
        assert all(0 <= share < 1 for share in shares)


def test_finished_stage_is_left_unchanged(toy, tiny_config, tmp_path):
    train(tiny_config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    state, output = train(tiny_config, tmp_path)
    assert state is None
    assert "already finished" in output
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert checkpoints.load_model(tmp_path).step == 8


@pytest.mark.slow
def test_damaged_finished_stage_is_repaired(toy, tiny_config, tmp_path):
    tiny_config.checkpoint.every = 1
    tiny_config.checkpoint.keep = 2
    last, _ = train(tiny_config, tmp_path)
    step = tmp_path / "checkpoints" / str(tiny_config.steps)
    path = max(
        (path for path in (step / "proxies").rglob("d/*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    path.write_bytes(path.read_bytes()[:-1])
    again, output = train(tiny_config, tmp_path)
    assert "bytes). It was moved to" in output
    equal(last.proxies, again.proxies)
    assert train(tiny_config, tmp_path)[0] is None


@pytest.mark.slow
def test_any_workdir_name_trains_and_resumes(
    toy, cached_config, tmp_path, steps
):
    workdir = tmp_path / "b[1]*?**\\{x} %41#'é\n\"gs:" / "-r\\"
    cached_config.profile = "2:3"
    train_until_killed(steps, cached_config, workdir)
    train(cached_config, workdir)
    assert workdir_lib.latest_step(workdir) == 8
    assert checkpoints.load_model(workdir).step == 8
    files = {path.name for path in workdir.rglob("*") if path.is_file()}
    assert any(name.startswith("events.out") for name in files)
    assert any(name.endswith(".xplane.pb") for name in files)
    # Nothing was written anywhere else.
    assert [path.name for path in tmp_path.iterdir()] == [workdir.parent.name]


@pytest.mark.parametrize("kind", ["file", "in a file", "long"])
def test_invalid_workdir_is_rejected_before_data_is_read(
    toy, tiny_config, tmp_path, kind
):
    (tmp_path / "file").touch()
    tiny_config.data.table = "nowhere.csv"
    name = {"in a file": "file/run", "long": "x" * 256}.get(kind, kind)
    with pytest.raises(
        UserError, match=r"cannot be (written|listed)"
    ) as caught:
        train(tiny_config, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_second_run_in_a_workdir_is_rejected(toy, tiny_config, tmp_path):
    workdir = tmp_path / "run"
    with (
        folder_lock.hold(workdir, "--workdir"),
        pytest.raises(UserError, match=f"process {os.getpid()} on .*--workdir"),
    ):
        train(tiny_config, workdir)
    assert not workdir.exists()  # The second run wrote nothing.
    train(tiny_config, workdir)
    with folder_lock.hold(workdir, "--workdir"):
        _, output = train(tiny_config, workdir)
    assert "already finished" in output


def test_run_without_its_workdir_writes_no_more_checkpoints(
    toy, tiny_config, tmp_path, monkeypatch
):
    """Another run takes over after the first save, at step 3."""
    save = checkpoints.Checkpoints.save

    def save_and_lose(saver, step, *arguments, **options):
        save(saver, step, *arguments, **options)
        saver._manager.wait_until_finished()
        store = owner_store.Folder(tmp_path)
        store.write(owner_record.make(), store.read().version)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and_lose)
    with pytest.raises(folder_lock.LostError, match=r"taken over .*: process"):
        train(tiny_config, tmp_path)
    assert workdir_lib.latest_step(tmp_path) == 3


def test_run_without_its_workdir_stops_before_the_next_save(
    toy, tiny_config, tmp_path, monkeypatch
):
    """By then, the log belongs to another run."""
    tiny_config.checkpoint.every = tiny_config.steps
    monkeypatch.setattr(folder_lock, "BEAT", 0.01)
    make_step = loop.abstract_step.make_step

    def lose_then_step(run):
        step = make_step(run)

        def one(*arguments):
            store = owner_store.Folder(tmp_path)
            store.write(owner_record.make(), store.read().version)
            time.sleep(0.1)
            return step(*arguments)

        return one

    monkeypatch.setattr(loop.abstract_step, "make_step", lose_then_step)
    with pytest.raises(folder_lock.LostError, match=r"taken over .*: process"):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_features_locked_by_another_run_are_left_unchanged(
    toy, cached_config, tmp_path
):
    cached_config.data.features = str(tmp_path / "features")
    with (
        folder_lock.hold(tmp_path / "features", "--out", part="-0"),
        pytest.raises(UserError, match=r"with --config\.data\.features"),
    ):
        train(cached_config, tmp_path / "run")
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_run_resumes_on_other_devices(toy, tiny_config, tmp_path, steps):
    whole, _ = train(tiny_config, tmp_path / "whole", num_devices=2)
    train_until_killed(steps, tiny_config, tmp_path / "moved")
    moved, _ = train(tiny_config, tmp_path / "moved", num_devices=8)
    assert moved.proxies.shape == (16, 16)
    np.testing.assert_allclose(
        moved.proxies[:12], whole.proxies[:12], atol=1e-2
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3),
        moved.params,
        whole.params,
    )


def test_changed_config_is_rejected_before_data_is_read(
    toy, tiny_config, tmp_path, monkeypatch
):
    train(tiny_config, tmp_path)
    tiny_config.head.scale = 9.0
    tiny_config.data.table = "nowhere.csv"
    with pytest.raises(UserError, match=r"head.scale: 32.0 -> 9.0"):
        train(tiny_config, tmp_path)


@pytest.mark.slow
def test_resuming_depends_on_content_only(
    toy, tiny_config, tmp_path, steps, monkeypatch
):
    """Paths and times may change, but not a single byte."""
    table_path = toy.write_table(tmp_path / "d0")
    tiny_config.data.table = str(table_path)
    train_until_killed(steps, tiny_config, tmp_path / "run", 4)
    gc.collect()
    (tmp_path / "d0").rename(tmp_path / "d1")
    image = tmp_path / "d1" / "query-0-0.png"
    os.utime(image, ns=(1, 1))
    content = image.read_bytes()
    changed = content.replace(b"IEND", b"IENX")  # after the pixels
    image.write_bytes(changed)
    tiny_config.data.table = str(tmp_path / "d1" / "." / "table.csv")
    with pytest.raises(
        UserError, match="some image files have different bytes"
    ):
        train(tiny_config, tmp_path / "run")
    gc.collect()  # closes the first generation
    image.write_bytes(content)
    state, output = train(tiny_config, tmp_path / "run")
    assert int(state.step) == 8
    assert "1 image has changed since the data was prepared" in output
    assert len(list((tmp_path / "d1" / "prepared").glob("*/*"))) == 1


@pytest.mark.slow
def test_interrupt_before_the_first_step_loses_nothing(
    toy, tiny_config, tmp_path, monkeypatch, capsys
):
    """Interrupts the data check, the initialization and the compilation."""
    undisturbed, _ = train(tiny_config, tmp_path / "undisturbed")
    folder = tmp_path / "run"
    for module, name in (
        (opening, "open_table"),
        (initialize, "initial_variables"),
        (loop.Logs, "__enter__"),
    ):
        with monkeypatch.context() as patch:
            real = getattr(module, name)

            def interrupt(*args, real=real, **options):
                signal.raise_signal(signal.SIGINT)
                return real(*args, **options)

            patch.setattr(module, name, interrupt)
            with contextlib.suppress(SystemExit):
                code = command.run(lambda: train(tiny_config, folder))
                assert code == command.INTERRUPTED
                assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"
        left = [path.name for path in folder.rglob("*") if path.is_file()]
        assert not [name for name in left if "draft" in name or "owner" in name]
    state, _ = train(tiny_config, folder)
    equal(undisturbed.params, state.params)
    equal(undisturbed.proxies, state.proxies)


@pytest.mark.slow
def test_restart_reads_no_image(toy, tiny_config, tmp_path, steps, monkeypatch):
    """Only the image files' sizes and times are checked."""
    folder = tmp_path / "run"
    train_until_killed(steps, tiny_config, folder, 6)

    def read_digests(paths, strict):
        assert not paths
        return np.zeros((0, 16), np.uint8)

    monkeypatch.setattr(decoding, "read", None)
    monkeypatch.setattr(identity, "_read_digests", read_digests)
    train(tiny_config, folder)
    assert workdir_lib.latest_step(folder) == tiny_config.steps


@pytest.mark.slow
def test_too_many_non_finite_steps_end_the_run(toy, tiny_config, tmp_path):
    tiny_config.optimizer.max_skipped = 2
    tiny_config.optimizer.learning_rate = 1e38
    tiny_config.optimizer.warmup = 0.0
    tiny_config.steps = 20
    with pytest.raises(
        UserError, match="steps had a non-finite loss or gradient"
    ):
        train(tiny_config, tmp_path)
    assert 3 <= workdir_lib.latest_step(tmp_path) < 20


def test_monitor_can_stop_the_run_after_a_save(toy, tiny_config, tmp_path):
    tiny_config.monitors.on_failure = "raise"
    tiny_config.monitors.max_norm_ratio = 1.0
    tiny_config.checkpoint.every = 100
    with pytest.raises(MonitorError, match="norm_ratio"):
        train(tiny_config, tmp_path)
    assert workdir_lib.latest_step(tmp_path) == 6  # measured at 4, read after 5


def test_monitor_warns_once(toy, tiny_config, tmp_path):
    tiny_config.monitors.max_norm_ratio = 1.0
    _, output = train(tiny_config, tmp_path)
    assert output.count("warning: norm_ratio") == 1


@pytest.mark.slow
def test_run_survives_a_thousand_broken_files(toy, tiny_config, tmp_path):
    path = toy.write_table(tmp_path / "table")
    good = table.read_table(path)
    names = [
        broken_files.write(path.parent, kind, number)
        for kind in faults.KINDS
        for number in range(100)
    ]
    bad = good.iloc[np.arange(1000) % len(good)].assign(
        sample_id=names, image=names
    )
    table.write_table(pd.concat([good, bad], ignore_index=True), path)
    tiny_config.data.table = str(path)
    tiny_config.data.max_pixels = broken_files.ALLOWED
    tiny_config.data.max_skipped = 0.9
    with pytest.raises(UserError) as caught:
        train(tiny_config, tmp_path / "run")
    counts = ", ".join(f"100 {kind}" for kind in faults.KINDS)
    wanted = f"1000 of 1048 samples skipped: unreadable images ({counts})"
    message = str(caught.value)
    assert wanted in message
    assert "0.954; the config's data.max_skipped allows 0.9" in message
    assert "missing-9: the file is missing" in message
    assert "missing-10" not in message
    listed = pd.read_csv(tmp_path / "run" / "skipped.csv")
    assert listed["image"].tolist() == names
    assert listed["kind"].tolist() == list(np.repeat(faults.KINDS, 100))
    tiny_config.data.max_skipped = 0.96
    state, output = train(tiny_config, tmp_path / "run")
    assert f"{wanted}; {tmp_path / 'run' / 'skipped.csv'} lists them" in output
    assert int(state.step) == tiny_config.steps


@pytest.mark.slow
def test_suspicious_categories_are_named_before_training(
    toy, tiny_config, tmp_path, steps
):
    path = toy.write_table(tmp_path / "table")
    frame = table.read_table(path)
    frame.loc[frame["role"] == "query", "category_id"] += " "
    table.write_table(frame, path)
    tiny_config.data.table = str(path)
    tiny_config.steps = 1
    _, output = train(tiny_config, tmp_path / "run")
    assert "24 training categories have only queries or only" in output
    assert "('c00 ' and 'c00'," in output


@pytest.mark.slow
def test_workers_match_threads(toy, tiny_config, tmp_path, steps):
    whole, _ = train(tiny_config, tmp_path / "threads")
    tiny_config.data.workers = 2
    train_until_killed(steps, tiny_config, tmp_path / "workers")
    assert not multiprocessing.active_children()
    tiny_config.data.workers = 0
    resumed, _ = train(tiny_config, tmp_path / "workers")
    equal(resumed, whole)


@pytest.mark.slow
def test_head_settings_reach_the_step(toy, tiny_config, tmp_path):
    """Frequency-based margins, sub-centers and bf16 rows."""
    config = tiny_config
    config.steps = 2
    config.head.update({"name": "topk", "active": 1.0, "subcenters": 2})
    config.head.margin_power = 0.25
    config.proxies.update({"optimizer": "sgd_bf16", "init": "imprint"})
    first = loop.train(config, tmp_path / "run")
    assert first.proxies.dtype == jnp.bfloat16
    assert first.proxies.shape[1] == 2 * config.model.dim
    assert jnp.isfinite(first.proxies.astype(jnp.float32)).all()
    assert int(first.skipped) == 0


def test_skipped_final_steps_are_reported(toy, tiny_config, tmp_path):
    tiny_config.optimizer.learning_rate = 1e38
    tiny_config.optimizer.warmup = 0.0
    tiny_config.steps = 6  # fewer than `max_skipped` in a row
    _, output = train(tiny_config, tmp_path)
    assert "the last 5 steps had a non-finite loss or gradient" in output
    assert "lower optimizer.learning_rate" in " ".join(output.split())
