"""The origin of a run, and the changes allowed when it resumes."""

import os
import pathlib
import shlex
import shutil

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.tables import table
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs, origins
from mixer_jax.training.checkpoint import workdir

QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def begun(toy, tiny_config, tmp_path, monkeypatch):
    """The config of a run with a checkpoint in the folder `run`."""
    monkeypatch.chdir(tmp_path)
    toy.write_table(tmp_path / "d0", categories=2)
    (tmp_path / "link").symlink_to("d0")
    tiny_config.data.table = "d0/table.csv"
    tiny_config.data.max_skipped = 0.5
    begin("run", tiny_config)
    monkeypatch.setattr(
        workdir,
        "latest_step",
        lambda folder: 3 if os.path.exists(f"{folder}/config.json") else None,
    )
    return tiny_config


def begin(folder, config):
    loaded = inputs.load(config.data)
    origin = origins.describe(config, loaded)
    workdir.prepare(folder, config, loaded.samples.category_ids, origin)


def resume(config, folder="run"):
    """Runs every check of a resumed run."""
    workdir.check_config(folder, config)
    origins.check_names(folder, config)
    origins.check_data(folder, inputs.load(config.data))


spelled = st.lists(
    st.sampled_from(["./", "../d0/", ".//", "../link/", "../d0/../link/./"]),
    max_size=4,
).map(lambda steps: "d0/" + "".join(steps))


@pytest.mark.slow
@QUICK
@given(start=st.sampled_from(["", "./", "/"]), steps=spelled)
def test_any_spelling_of_a_path_resumes(begun, start, steps):
    path = f"{steps}table.csv"
    begun.data.table = os.path.abspath(path) if start == "/" else start + path
    resume(begun)
    begun.data.table = "d0/table.csv"
    begun.data.max_skipped = 0.25  # does not affect the training
    begun.data.prepared = start + steps
    resume(begun)


cell = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9
)


@QUICK
@given(
    row=st.integers(0, 7),
    column=st.sampled_from(["sample_id", "text", "group"]),
    value=cell,
)
def test_changed_cell_is_rejected(begun, tmp_path, row, column, value):
    frame = table.read_table("d0/table.csv")
    if column == "text":
        row = 4 + row % 4 if frame["role"].iat[4] == "document" else row
    if frame[column].iat[row] == value or (
        frame["role"].iat[row] == "query" and column == "text"
    ):
        return
    shutil.rmtree("d1", ignore_errors=True)
    shutil.copytree("d0", "d1")
    frame.loc[row, column] = value
    try:
        table.write_table(frame, tmp_path / "d1" / "table.csv")
    except UserError:
        return  # Such a table is invalid.
    begun.data.table = "d1/table.csv"
    with pytest.raises(UserError, match=r"data: .*8 samples.*have changed"):
        resume(begun)
    begun.data.table = "d0/table.csv"


@QUICK
@given(times=st.lists(st.integers(0, 2**40), min_size=8, max_size=8))
def test_changed_modification_times_are_accepted(begun, times):
    images = table.read_table("d0/table.csv")["image"]
    for name, time in zip(images, times, strict=True):
        os.utime(f"d0/{name}", ns=(time, time))
    resume(begun)


def test_error_describes_the_change(begun):
    frame = table.read_table("d0/table.csv")
    table.write_table(frame.iloc[:-1], "d0/table.csv")
    with pytest.raises(UserError, match=r"\(8 samples before, 7 now\)"):
        resume(begun)
    table.write_table(frame.iloc[::-1], "d0/table.csv")
    with pytest.raises(UserError, match="cells or the order of") as caught:
        resume(begun)
    new_run = f"--workdir=NEW --config.init_from={os.path.abspath('run')}"
    assert new_run in str(caught.value)
    table.write_table(frame, "d0/table.csv")
    resume(begun)
    shutil.copy(image := f"d0/{frame['image'][0]}", "kept")
    Image.new("RGB", (99, 16)).save(image)
    with pytest.raises(
        UserError, match=r"of the 8 image files have a different size"
    ):
        resume(begun)
    shutil.copy("kept", image)
    resume(begun)


def test_newly_unreadable_image_is_reported(begun):
    image = table.read_table("d0/table.csv")["image"][0]
    os.rename(f"d0/{image}", "kept")
    loaded = inputs.load(begun.data, "run")
    wanted = (
        "7 of the 8 samples .* can be used, but 8 could before.*skipped.csv"
    )
    with pytest.raises(UserError, match=wanted):
        origins.check_data("run", loaded)
    os.rename("kept", f"d0/{image}")
    resume(begun)


def test_changed_image_bytes_are_rejected(begun):
    origins.check_content("run", "sha256:1")
    origins.check_content("run", "sha256:1")
    with pytest.raises(UserError, match="same, but some image files have diff"):
        origins.check_content("run", "sha256:2")


def test_run_of_an_earlier_version_does_not_resume(begun):
    origins.check_content("run", "one")
    with pytest.raises(UserError, match="run of an earlier version of mixer"):
        origins.check_content("run", "sha256:1")


def test_resumed_run_keeps_its_origin(begun):
    origins.check_content("run", "one")
    before = workdir.read_origin("run")
    loaded = inputs.load(begun.data)
    origin = origins.merge("run", origins.describe(begun, loaded))
    workdir.prepare("run", begun, loaded.samples.category_ids, origin)
    assert workdir.read_origin("run") == before


def test_edited_table_of_a_finished_run_is_detected(begun):
    frame = table.read_table(begun.data.table)
    later = 4_000_000_000  # in the year 2096
    os.utime(begun.data.table, (later, later))
    origins.check_table(
        "run", begun.data
    )  # only a modification time has changed
    table.write_table(frame.iloc[1:], begun.data.table)
    os.utime(begun.data.table, (later, later))
    with pytest.raises(UserError, match="finished run on different data"):
        origins.check_table("run", begun.data)
    os.remove(begun.data.table)
    origins.check_table("run", begun.data)


def test_other_table_for_a_finished_run_is_rejected(begun):
    shutil.copytree("d0", "d1")
    begun.data.table = "d1/table.csv"
    origins.check_table("run", begun.data)
    frame = table.read_table("d1/table.csv")
    table.write_table(frame.iloc[1:], "d1/table.csv")
    with pytest.raises(
        UserError, match="finished run on different data: the rows of d1/table"
    ):
        origins.check_table("run", begun.data)


@pytest.fixture
def second(begun):
    """The config of a run in `two` that started from `one`."""
    begin("one", begun)
    begun.init_from = "one"
    begin("two", begun)
    return begun


def test_previous_stage_may_move_but_not_change(second):
    for same in ("./one", os.path.abspath("one"), "two/../one/"):
        second.init_from = same
        resume(second, "two")
    shutil.move("one", "moved")
    second.init_from = "moved"
    resume(second, "two")
    second.init_from = "one"  # missing, but the recorded path
    resume(second, "two")
    other = second.copy_and_resolve_references()
    other.seed += 1
    begin("other", other)
    for wrong, reason in (
        ("other", "'other' contains another run"),
        ("nowhere", "'nowhere' does not exist, so it cannot be"),
        ("", "'' is given"),
    ):
        second.init_from = wrong
        with pytest.raises(
            UserError, match=f"init_from was 'one', but {reason}"
        ):
            resume(second, "two")


def test_curriculum_resumes_after_a_move(begun, monkeypatch):
    begin("c/stage1", begun)
    begun.init_from = "c/stage1"
    begin("c/stage2", begun)
    shutil.move("c", "moved")
    begun.init_from = "moved/stage1"
    resume(begun, "moved/stage2")


def test_previous_stage_may_have_continued(second, monkeypatch):
    steps = {"two": 3, "one": 5, "copy": 5}
    monkeypatch.setattr(workdir, "latest_step", lambda x: steps[str(x)])
    resume(second, "two")
    shutil.copytree("one", "copy")
    second.init_from = "copy"
    with pytest.raises(UserError, match="'copy' is at step 5, not 3"):
        resume(second, "two")


@pytest.mark.parametrize(
    "key", ["data.tokenizer", "model.image.pretrained", "model.text.pretrained"]
)
def test_folders_are_compared_by_content(begun, key):
    loaded = inputs.Inputs(samples=None, source=None, tokenizer=None)
    os.mkdir("words")
    for name in ("tokenizer.json", "model.safetensors"):
        with open(f"words/{name}", "wb") as file:
            file.write(b"a" * (3 << 20))

    def with_folder(name):
        config = begun.copy_and_resolve_references()
        origins.places_lib.put(config, key, name)
        return config

    workdir.prepare(
        "run",
        with_folder("words"),
        ["a"],
        origins.describe(with_folder("words"), loaded),
    )
    shutil.copytree("words", "copy")
    for same in ("words", "./words//", "copy", os.path.abspath("copy")):
        origins.check_names("run", with_folder(same))
    with open("copy/tokenizer.json", "r+b") as file:
        file.write(b"b")
    with pytest.raises(
        UserError, match=f"{key} was 'words'.*has different files"
    ):
        origins.check_names("run", with_folder("copy"))
    with pytest.raises(UserError, match=f"{key} was 'words', but 'minilm'"):
        origins.check_names("run", with_folder("minilm"))
    shutil.rmtree("words")
    origins.check_names("run", with_folder("./words"))


def test_more_steps_require_a_new_run(begun):
    begun.steps = 99
    with pytest.raises(UserError) as caught:
        workdir.check_config("run", begun)
    new_run = (
        f"--workdir=NEW --config.init_from={os.path.abspath('run')} "
        "--config.steps=99"
    )
    assert "steps: 8 -> 99" in str(caught.value)
    assert str(caught.value).endswith(new_run)
    assert "resumes only with --config.steps=8" in str(caught.value)
    with pytest.raises(UserError) as caught:
        workdir.check_config("run", begun, "config.stage2")
    flags = shlex.split(str(caught.value))[-4:]
    assert flags == [
        "--workdir=NEW",
        "--config.curriculum=('stage2',)",
        f"--config.stage2.init_from={os.path.abspath('run')}",
        "--config.stage2.steps=99",
    ]


def test_run_without_a_recorded_origin_resumes(begun):
    os.remove("run/origin.json")
    resume(begun)
    begun.init_from = "one"
    with pytest.raises(UserError, match="init_from was '', but 'one'"):
        resume(begun)


def test_edited_part_of_a_partitioned_table_is_detected(begun, tmp_path):
    frame = table.read_table(begun.data.table)
    parts = pathlib.Path("d0/parts.parquet")
    frame.to_parquet(parts, partition_cols=["role"])
    begun.data.table = str(parts)
    begin("other", begun)
    origins.check_table("other", begun.data)
    (part,) = (parts / "role=document").iterdir()
    pd.read_parquet(part).iloc[1:].to_parquet(tmp_path / "one.parquet")
    later = 4_000_000_000  # in the year 2096
    shutil.copyfile(tmp_path / "one.parquet", part)
    os.utime(part, (later, later))
    with pytest.raises(UserError, match="finished run on different data"):
        origins.check_table("other", begun.data)
