import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.images import checking, decoding, faults
from mixer_jax.data.prepared import (
    build,
    generations,
    shards,
    tfds_files,
    version,
)
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import PassingError, UserError


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture
def frame():
    rows = [
        (f"q{i}", "query", f"{i}.png", "", f"c{i}", "", split)
        for i, split in enumerate(("train/a", "test-x", "train/b"))
    ]
    rows += [
        (f"d{i}", "document", image, words, f"c{i}", "g", split)
        for i, (image, words, split) in enumerate(
            (
                ("3.png", "größe ✓", "test-x"),
                ("", "words only", "train/a"),
                ("5.png", "", "train/b"),
            )
        )
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


def prepare(frame, root, place="", **settings):
    """Prepares a frame and returns its samples."""
    made = build.prepare(frame, root, place, **settings)
    made.remove_others()
    return made.source(identity.examine(frame, root))


def contents(source):
    return [source[row] for row in range(len(source))]


def test_prepared_source_matches_the_image_files(frame, root, tmp_path, capfd):
    want = contents(pipeline.FileSource(frame, root))
    source = prepare(frame, root, tmp_path / "out")
    assert contents(source) == want
    assert source[4][0] == b""
    files = {path.name for path in (tmp_path / "out").rglob("*array_record*")}
    assert files == {
        "sample_table-train.array_record-00000-of-00001",
        "sample_table-test-x.array_record-00000-of-00001",
    }
    assert "ownload" not in "".join(capfd.readouterr())


def test_rows_of_a_selected_split_stay_aligned(frame, root):
    train = table.select(frame, "train").iloc[::-1]
    want = contents(pipeline.FileSource(train, root))
    assert contents(prepare(train, root)) == want
    assert (root / "prepared").is_dir()


def test_tfds_can_read_the_files(frame, root):
    prepare(frame, root)
    (folder,) = (root / "prepared").glob("*/*/sample_table/1.0.0")
    source = tfds.builder_from_directory(folder).as_data_source("train")
    sample = source[0]
    assert sample["sample_id"].decode() == "q0"
    assert sample["split"].decode() == "train/a"
    assert sample["image"].shape == (8, 8, 3)


def test_unchanged_content_is_written_only_once(frame, root, monkeypatch):
    want = contents(prepare(frame, root))
    monkeypatch.setattr(shards, "write", None)
    assert contents(prepare(frame, root)) == want


def test_changed_content_is_written_again(frame, root):
    keys = {prepare(frame, root).content}
    keys.add(prepare(frame.assign(group="h"), root).content)
    keys.add(prepare(frame.iloc[::-1], root).content)
    Image.new("RGB", (100, 9)).save(root / "3.png")
    source = prepare(frame, root)
    assert len(keys | {source.content}) == 4
    assert source[3][0] == (root / "3.png").read_bytes()


def generations_of(root):
    return sorted((root / "prepared").glob("*/*"))


def test_new_generation_replaces_the_old_one(frame, root):
    prepare(frame, root)
    (first,) = generations_of(root)
    prepare(frame.assign(text="edited"), root)
    (second,) = generations_of(root)
    assert first != second
    # Another split of the same table has its own generation.
    prepare(table.select(frame, "train"), root)
    assert second in generations_of(root)
    assert len(generations_of(root)) == 2


def test_generation_in_use_is_not_removed(frame, root):
    """Also if a worker process opens it only later."""
    want = contents(pipeline.FileSource(frame, root))
    old = prepare(frame, root)
    sent = pickle.dumps(old)
    new = prepare(frame.assign(text="edited"), root)
    assert len(generations_of(root)) == 2
    assert contents(pickle.loads(sent)) == want
    del old
    assert new.content != prepare(frame, root).content
    del new
    prepare(frame.assign(text="again"), root)
    assert len(generations_of(root)) == 1


def flip_bit(path):
    """Flips a bit of a file's last byte; returns its previous status."""
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return status


def test_changed_times_cause_only_a_content_check(frame, root, monkeypatch):
    first = prepare(frame, root).content
    for name in "035":
        os.utime(root / f"{name}.png", ns=(int(name), int(name)))
    messages, read = [], []
    spy = identity._read_digests
    monkeypatch.setattr(
        identity, "_read_digests", lambda x, y: (read.extend(x), spy(x, y))[1]
    )
    monkeypatch.setattr(shards, "write", None)
    assert prepare(frame, root, say=messages.append).content == first
    assert [path.name for path in read] == ["0.png", "3.png", "5.png"]
    read.clear()
    assert prepare(frame, root, say=messages.append).content == first
    assert not read
    assert not messages


def test_changed_image_of_equal_size_is_prepared_again(frame, root):
    first = prepare(frame, root).content
    flip_bit(root / "3.png")
    os.utime(root / "3.png", ns=(5, 5))
    messages = []
    source = prepare(frame, root, say=messages.append)
    assert source.content != first
    assert source[3][0] == (root / "3.png").read_bytes()
    assert messages == [
        "1 image has changed since the data was prepared, such as 3.png; "
        "preparing the data again."
    ]
    assert len(generations_of(root)) == 1


def test_moved_or_renamed_table_is_not_prepared_again(
    frame, root, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    frame.attrs["table"] = str(root / "one.csv")
    content = prepare(frame, root, out).content
    place = shutil.copytree(
        root, tmp_path / "moved", ignore=lambda *_: {"out", "moved"}
    )
    monkeypatch.setattr(shards, "write", None)
    frame.attrs["table"] = str(place / "two.csv")
    assert prepare(frame, place, out).content == content


_PREPARE = """
import sys, time
import pandas as pd
from mixer_jax.data.prepared import build, shards
write = shards.write
def slow(task):
    print("writing\\n", end="", flush=True)
    sys.stdin.readline()
    return write(task)
shards.write = slow
build.prepare(pd.read_pickle(sys.argv[1]), sys.argv[2])
print("done", flush=True)
"""


def other_process(frame, root):
    """Starts to prepare a frame in a process that waits for a line."""
    frame.to_pickle(root / "frame.pickle")
    process = subprocess.Popen(
        [sys.executable, "-c", _PREPARE, root / "frame.pickle", root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_concurrent_preparations_share_one_result(frame, root, monkeypatch):
    waiting = threading.Event()
    messages = []

    def say(text):
        messages.append(text)
        waiting.set()

    monkeypatch.setattr(shards, "write", None)  # Only the other one writes.
    with (
        other_process(frame, root) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        source = pool.submit(prepare, frame, root, say=say)
        assert waiting.wait(60)
        process.stdin.write("\n" * 9)
        process.stdin.close()
        assert contents(source.result()) == contents(
            pipeline.FileSource(frame, root)
        )
    assert process.returncode == 0
    assert messages == [
        "Waiting for another process that prepares the same data."
    ]
    assert len(generations_of(root)) == 1


def test_drafts_of_killed_processes_are_removed(frame, root):
    with other_process(frame, root) as process:
        process.kill()
    (group,) = (root / "prepared").iterdir()
    (left,) = group.iterdir()
    assert left.name.startswith(".partial-")
    prepare(frame.assign(text="edited"), root)
    assert not left.exists()


@settings(max_examples=15, deadline=None)
@given(
    name=st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"),
        min_size=1,
        max_size=40,
    ).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
)
@example("b[1]")
@example("*?{a,b}")
def test_root_and_table_may_have_any_name(name):
    rows = [
        ("q", "query", "a.png", "", "c", "", "train"),
        ("d", "document", "", "text", "c", "", "train"),
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / name
        root.mkdir()
        Image.new("RGB", (2, 2)).save(root / "a.png")
        frame.attrs["table"] = f"{root}/{name}.csv"
        want = contents(pipeline.FileSource(frame, root))
        assert contents(prepare(frame, root)) == want


@pytest.mark.parametrize("name", ["a[1]", "**", "*", "a\\b", "é?", "\udcff"])
def test_root_name_may_contain_special_characters(frame, root, name):
    (root / "a1").mkdir()  # Matches the pattern a[1].
    images = list(root.glob("*.png"))
    root = root / name
    root.mkdir()
    for image in images:
        shutil.copy(image, root)
    source = prepare(frame, root)
    wanted = contents(pipeline.FileSource(frame, root))
    assert contents(source) == wanted
    assert contents(pickle.loads(pickle.dumps(source))) == wanted
    again = prepare(frame, root)
    assert contents(again) == wanted


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_do_not_depend_on_the_workers(frame, root, workers):
    options = build.Options(shards=2, workers=workers)
    made = [
        build.prepare(frame, root, root / name, options=one)
        for name, one in (("a", build.Options(shards=2)), ("b", options))
    ]
    first, second = (
        [
            (path.relative_to(m.folder), text)
            for path, text in files_in(m.folder)
        ]
        for m in made
    )
    assert first == second
    assert len(files_named(made[0])) == 4


def test_interrupted_preparation_continues(frame, root, monkeypatch):
    """The result has the same bytes, and finished shards are not repeated."""
    options = build.Options(shards=3)
    whole = build.prepare(frame, root, root / "whole", options=options)
    write, written, stop = shards._records, [], [None]

    def records(task, digests, found):
        written.append(task.shard.name)
        if len(written) == 3 and stop:
            raise KeyboardInterrupt(stop.pop())
        return write(task, digests, found)

    monkeypatch.setattr(shards, "_records", records)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    place = root / "out"
    with pytest.raises(KeyboardInterrupt):
        build.prepare(frame, root, place, options=options)
    assert not [p for p in place.glob("*/*") if generations.is_version(p)]
    (draft,) = place.glob("*/.partial-*")
    (damaged,) = draft.rglob(written[0])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    first = written[:]
    written.clear()
    made = build.prepare(frame, root, place, options=options)
    # The first one is damaged, and the third one was interrupted.
    assert first[1] not in written
    assert {first[0], first[2]} <= {*written}
    assert len(written) == len({*written})
    for path in files_named(made):
        other = whole.folder / path.relative_to(made.folder)
        assert path.read_bytes() == other.read_bytes()
    assert not list(place.glob("*/.partial-*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupt_does_not_wait_for_whole_shards(root, workers):
    rows = [
        (f"d{i}", "document", "0.png", "", "c", "", "train")
        for i in range(60_000)
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)

    def interrupt():
        # Wait until the shard is being written.
        for _ in range(6000):
            if list(root.glob("prepared/*/.partial-*/*/*/*/.sample*")):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.01)

    options = build.Options(shards=1, workers=workers)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        build.prepare(frame, root, options=options)
    thread.join()
    assert list(root.glob("prepared/*/.partial-*/*/*/*/.sample*"))
    assert not list(root.glob("prepared/*/.partial-*/results/*.json"))


def test_shards_of_another_plan_are_removed(frame, root, monkeypatch):
    write = shards.write

    def interrupt(task):
        write(task)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build.prepare(frame, root, options=build.Options(shards=2))
    made = build.prepare(frame, root, options=build.Options(shards=3))
    named = {name for name, _ in made.parts}
    assert {path.name for path in files_named(made)} == named
    assert len(named) == 5


def test_all_images_may_be_unreadable(frame, root):
    for path in root.glob("*.png"):
        path.write_bytes(b"")
    frame = frame[frame["image"] != ""].reset_index(drop=True)
    for _ in range(2):
        made = build.prepare(frame, root)
        rows, errors = made.errors(frame, root)
        assert rows.tolist() == [*range(len(frame))]
        assert {error.kind for error in errors} == {faults.EMPTY}


def test_versions_of_another_table_are_kept(frame, root):
    """Also if both tables once had the same rows."""
    one, two = frame.copy(), frame.copy()
    one.attrs["table"], two.attrs["table"] = "one.csv", "two.csv"
    build.prepare(one, root)
    edited = build.prepare(one.assign(group="h"), root)
    same = build.prepare(two, root)
    assert same.folder.parent == edited.folder.parent
    del edited
    same.remove_others()
    assert len(generations_of(root)) == 2


def test_a_smaller_limit_applies_to_kept_rows(frame, root):
    Image.new("RGB", (40, 40)).save(root / "3.png")
    assert not build.prepare(frame, root).skipped
    few = build.Options(max_pixels=1000)
    (fault,) = build.prepare(frame, root, options=few).skipped
    assert (fault.row, fault.kind) == (3, faults.TOO_LARGE)
    assert not build.prepare(frame, root).skipped


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("edited", [4, 2])
def test_rows_are_not_kept_from_damaged_files(frame, root, workers, edited):
    """Whether a damaged file has the same rows or others."""
    place = root / "a[1]"  # whose path needs a descriptor of the process
    place.mkdir()
    options = build.Options(shards=2, workers=workers)
    old = build.prepare(frame, root, place, options=options)
    for path in files_named(old):
        content = bytearray(path.read_bytes())
        content[70:-1:7] = bytes(len(content[70:-1:7]))
        path.write_bytes(content)
    frame = frame.copy()
    frame.loc[edited, "group"] = "h"
    new = build.prepare(frame, root, place, options=options)
    assert new.folder != old.folder
    source = new.source(identity.examine(frame, root))
    assert contents(source) == contents(pipeline.FileSource(frame, root))


@pytest.mark.parametrize("change", ["lost", "edited"])
def test_an_image_that_changes_for_a_moment_is_not_believed(
    frame, root, monkeypatch, change
):
    """The interrupted preparation does not keep what it read meanwhile."""
    path, read = root / "3.png", decoding.read
    good, status = path.read_bytes(), path.stat()

    def unsteady(name):
        if name == path:
            path.unlink()
            if change == "edited":
                Image.new("RGB", (8, 8), "blue").save(path)
        return read(name)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read", unsteady)
        with pytest.raises(PassingError, match=r"3\.png was changed while"):
            build.prepare(frame, root)
    path.write_bytes(good)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    made = build.prepare(frame, root)
    assert not made.skipped
    source = made.source(identity.examine(frame, root))
    assert contents(source) == contents(pipeline.FileSource(frame, root))


def test_a_decoder_that_is_installed_later_is_used(frame, root, monkeypatch):
    decode = decoding.decode

    def fail(*_, **__):
        raise faults.UnreadableImageError("no", faults.UNSUPPORTED)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", fail)
        assert len(build.prepare(frame, root).skipped) == 5
        assert len(build.prepare(frame, root).skipped) == 5
    assert decoding.decode is decode
    assert not build.prepare(frame, root).skipped


def test_rows_that_were_left_out_cannot_be_read(frame, root):
    (root / "3.png").write_bytes(b"")
    made = build.prepare(frame, root)
    with pytest.raises(ValueError, match="left out"):
        made.source(identity.examine(frame, root))


def files_named(made):
    return sorted(made.folder.rglob("*array_record*"))


def test_kept_rows_are_not_decoded_again(frame, root, monkeypatch):
    """The bytes are those of data prepared from scratch."""
    options = build.Options(shards=2)
    old = build.prepare(frame, root, options=options)
    Image.new("RGB", (9, 9), "red").save(root / "2.png")
    edited = frame.copy()
    edited.loc[4, "text"] = "other words"
    edited = edited.drop(index=1).reset_index(drop=True)
    decoded, read = [], decoding.read

    def spy(path):
        decoded.append(path.name)
        return read(path)

    monkeypatch.setattr(decoding, "read", spy)
    new = build.prepare(edited, root, options=options)
    assert decoded == ["2.png"]
    fresh = build.prepare(edited, root, root / "fresh", options=options)
    assert len(decoded) == 5
    assert old.folder != new.folder
    for path in new.folder.rglob("*"):
        if path.is_file():
            other = fresh.folder / path.relative_to(new.folder)
            assert path.read_bytes() == other.read_bytes(), path
    assert len(new.skipped) == 0


def test_unchanged_shards_are_linked(root):
    rows = [
        (f"d{i}", "document", "", f"words {i}", "c", "", "train")
        for i in range(8)
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    options = build.Options(shards=4)
    old = build.prepare(frame, root, options=options)
    inodes = [path.stat().st_ino for path in files_named(old)]
    frame.loc[5, "text"] = "other words"
    new = build.prepare(frame, root, options=options)
    now = [path.stat().st_ino for path in files_named(new)]
    assert [a == b for a, b in zip(inodes, now, strict=True)] == [
        *(True, True, False, True)
    ]
    assert contents(new.source(identity.examine(frame, root)))[5] == (
        b"",
        "other words",
    )


def test_unreadable_images_are_left_out_and_listed(frame, root):
    (root / "0.png").unlink()
    (root / "3.png").write_bytes(b"<html>not found</html>")
    made = build.prepare(frame, root)
    rows, errors = made.errors(frame, root)
    assert rows.tolist() == [0, 3]
    kinds = [faults.MISSING, faults.NOT_AN_IMAGE]
    assert [error.kind for error in errors] == kinds
    want, skipped = checking.check_images(frame, root, 1.0)
    assert [str(error) for error in errors] == [
        line.split(": ", 1)[1] for line in skipped.examples
    ]
    listed = pd.read_csv(made.folder / version.SKIPPED)
    assert listed.sample_id.tolist() == ["q0", "d0"]
    assert listed.kind.tolist() == kinds
    source = made.source(identity.examine(want, root), want.index.to_numpy())
    assert contents(source) == contents(pipeline.FileSource(want, root))


def test_repaired_images_are_noticed(frame, root, monkeypatch):
    """Also if only the permission has changed."""
    good = (root / "3.png").read_bytes()
    (root / "3.png").write_bytes(b"")
    assert len(build.prepare(frame, root).skipped) == 1
    (root / "3.png").write_bytes(good)
    read, denied = decoding.read, [root / "3.png"]

    def deny(path):
        if path in denied:
            raise faults.UnreadableImageError("no", faults.UNREADABLE)
        return read(path)

    monkeypatch.setattr(decoding, "read", deny)
    assert len(build.prepare(frame, root).skipped) == 1
    messages = []
    assert len(build.prepare(frame, root, say=messages.append).skipped) == 1
    assert not messages
    denied.clear()
    repaired = build.prepare(frame, root, say=messages.append)
    assert not repaired.skipped
    repaired.remove_others()
    assert messages == [
        f"{root / '3.png'} could not be read when the data was prepared; "
        "preparing the data again."
    ]
    assert len(generations_of(root)) == 1
    assert not build.prepare(frame, root, say=messages.append).skipped
    assert len(messages) == 1


def test_find_returns_only_what_is_prepared(frame, root):
    assert build.find(frame, root) is None
    made = build.prepare(frame, root)
    found = build.find(frame, root)
    assert found.folder == made.folder
    assert build.find(frame.assign(text="edited"), root) is None


def end_process(task):
    os._exit(9)


def test_a_killed_worker_is_reported(frame, root, monkeypatch):
    monkeypatch.setattr(shards, "write", end_process)
    with pytest.raises(PassingError, match="killed"):
        build.prepare(frame, root, options=build.Options(workers=1))


def test_unwritable_folder_raises_an_error(frame, root):
    (root / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.prepared"):
        prepare(frame, root, root / "file" / "folder")


def test_prepared_source_yields_the_same_batches_as_files(frame, root):
    train = table.select(frame, "train")
    tokenizer = text.load("minilm", 6)
    index = table.category_index(train)
    options = {"image_size": 16, "batch_size": 4, "augment": "strong"}
    first, second = (
        pipeline.train_batches(train, source, index, tokenizer, **options)
        for source in (
            pipeline.FileSource(train, root),
            prepare(train, root),
        )
    )
    for _ in range(4):
        a, b = next(first), next(second)
        for role in ("query", "document"):
            for name, leaf in a[role].items():
                np.testing.assert_array_equal(leaf, b[role][name])


def test_tensorflow_is_not_imported():
    script = (
        "import sys; from mixer_jax.data.prepared import build; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def files_in(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.read_bytes()) for path in found]


@pytest.mark.parametrize("place", ["prepared", "out"])
def test_a_newer_format_is_refused(frame, root, place):
    prepare(frame, root, root / place)
    (folder,) = (root / place).glob("*/*")
    (folder / generations.RECORD).write_text('{"format": 3}')
    (folder / identity.NOTES).write_bytes(b"a newer format of the notes")
    before = files_in(root)
    with pytest.raises(UserError) as raised:
        prepare(frame, root, root / place)
    assert str(raised.value) == (
        f"The prepared data in {folder} has format 3, but this version of "
        "mixer_jax only reads formats up to 2; install a newer version, or "
        "set the config's data.prepared to another folder."
    )
    assert files_in(root) == before
    # Another folder can be used, as the message says.
    want = contents(pipeline.FileSource(frame, root))
    assert contents(prepare(frame, root, root / "another")) == want


def test_a_newer_format_of_other_rows_is_kept(frame, root):
    prepare(frame, root)
    (folder,) = generations_of(root)
    (folder / generations.RECORD).write_text('{"format": 3}')
    before = files_in(folder)
    prepare(frame.assign(text="edited"), root)
    assert files_in(folder) == before


def break_json(path):
    path.write_text('{"from": "a newer version"}')


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*-train.array_record*", os.remove),
        ("*-train.array_record*", truncate),
        ("dataset_info.json", os.remove),
        ("dataset_info.json", break_json),
        ("features.json", os.remove),
        ("manifest.json", os.remove),
        ("manifest.json", break_json),
        ("manifest.json", lambda path: path.write_text('{"format": 1}')),
        ("rows.npy", os.remove),
        ("images.npy", os.remove),
        ("rows.npy", truncate),
        ("1.0.0", shutil.rmtree),
    ],
)
def test_damaged_files_are_prepared_again(frame, root, pattern, damage):
    want = contents(prepare(frame, root))
    (path,) = (root / build.FOLDER).rglob(pattern)
    damage(path)
    messages = []
    source = prepare(frame, root, say=messages.append)
    assert contents(source) == want
    assert len(messages) == 1
    assert "missing or damaged files" in messages[0]
    assert contents(prepare(frame, root, say=messages.append)) == want
    assert len(messages) == 1


def test_reading_a_damaged_sample_raises_a_user_error(frame, root):
    source = prepare(frame, root)
    for path in (root / build.FOLDER).rglob("*array_record*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read .*remove that folder"):
        contents(pickle.loads(pickle.dumps(source)))


def test_losing_files_while_writing_raises_an_error(frame, root, monkeypatch):
    describe = tfds_files.describe

    def lose(version, splits):
        describe(version, splits)
        for path in version.rglob("*array_record*"):
            path.unlink()

    monkeypatch.setattr(tfds_files, "describe", lose)
    with pytest.raises(UserError, match="right after it was written"):
        build.prepare(frame, root)


def test_image_changed_during_preparation_raises_an_error(
    frame, root, monkeypatch
):
    write = shards.write

    def change(task):
        result = write(task)
        with open(root / "3.png", "ab") as file:
            file.write(b"more")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", change)
        with pytest.raises(PassingError, match=r"3\.png was changed while"):
            build.prepare(frame, root)
    want = contents(pipeline.FileSource(frame, root))
    assert contents(prepare(frame, root)) == want
    assert len(list((root / build.FOLDER).glob("*/*"))) == 1
