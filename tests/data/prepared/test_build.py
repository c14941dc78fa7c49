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

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.prepared import (
    build,
    content,
    generations,
    planning,
    shards,
)
from mixer_jax.data.stream import pipeline
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import PassingError, UserError
from tests.data.prepared.samples import (
    contents,
    files_named,
    generations_of,
    prepare,
)


def test_unchanged_content_is_written_only_once(frame, root, monkeypatch):
    want = contents(prepare(frame, root))
    monkeypatch.setattr(shards, "write", None)
    assert contents(prepare(frame, root)) == want


def test_changed_content_is_written_again(frame, root):
    def content(frame):
        return build.prepare(frame, root).manifest["content"]

    keys = {content(frame), content(frame.assign(group="h"))}
    keys.add(content(frame.iloc[::-1]))
    Image.new("RGB", (100, 9)).save(root / "3.png")
    source = prepare(frame, root)
    assert len(keys | {content(frame)}) == 4
    assert source[3][0] == (root / "3.png").read_bytes()


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
    """This includes data opened later by a worker process."""
    want = contents(pipeline.FileSource(frame, root))
    old = prepare(frame, root)
    sent = pickle.dumps(old)
    new = prepare(frame.assign(text="edited"), root)
    assert len(generations_of(root)) == 2
    assert contents(pickle.loads(sent)) == want
    del old
    assert contents(new) != contents(prepare(frame, root))
    del new
    prepare(frame.assign(text="again"), root)
    assert len(generations_of(root)) == 1


def flip_bit(path):
    """Flips a bit of a file's last byte; returns its previous status."""
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return status


def test_changed_times_cause_only_a_content_check(frame, root, monkeypatch):
    first = contents(prepare(frame, root))
    for name in "035":
        os.utime(root / f"{name}.png", ns=(int(name), int(name)))
    messages, read = [], []
    spy = identity._read_digests
    monkeypatch.setattr(
        identity, "_read_digests", lambda x, y: (read.extend(x), spy(x, y))[1]
    )
    monkeypatch.setattr(shards, "write", None)
    assert contents(prepare(frame, root, say=messages.append)) == first
    assert [path.name for path in read] == ["0.png", "3.png", "5.png"]
    read.clear()
    assert contents(prepare(frame, root, say=messages.append)) == first
    assert not read
    assert not messages


def test_changed_image_of_equal_size_is_prepared_again(frame, root):
    first = build.prepare(frame, root).manifest["content"]
    flip_bit(root / "3.png")
    os.utime(root / "3.png", ns=(5, 5))
    messages = []
    source = prepare(frame, root, say=messages.append)
    assert build.prepare(frame, root).manifest["content"] != first
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
    want = contents(prepare(frame, root, out))
    place = shutil.copytree(
        root, tmp_path / "moved", ignore=lambda *_: {"out", "moved"}
    )
    monkeypatch.setattr(shards, "write", None)
    frame.attrs["table"] = str(place / "two.csv")
    assert contents(prepare(frame, place, out)) == want


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
    """Starts preparing a frame in a process that waits for a line of input."""
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

    monkeypatch.setattr(shards, "write", None)  # Only the other process writes.
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
        "Waiting for another process that is preparing the same data."
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


def test_interrupted_preparation_continues(frame, root, monkeypatch):
    """The result has the same bytes, and finished shards are not repeated."""
    options = build.Options(shards=3)
    whole = build.prepare(frame, root, root / "whole", options=options)
    write, written, stop = content.Content.records, [], [None]

    def records(self):
        written.append(self._task.shard.name)
        if len(written) == 3 and stop:
            raise KeyboardInterrupt(stop.pop())
        return write(self)

    monkeypatch.setattr(content.Content, "records", records)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    place = root / "out"
    with pytest.raises(KeyboardInterrupt):
        build.prepare(frame, root, place, options=options)
    assert not [p for p in place.glob("*/*") if generations.is_version(p)]
    (draft,) = place.glob("*/.partial-*")
    (damaged,) = draft.rglob(written[0])
    damaged.write_bytes(damaged.read_bytes().replace(b"query", b"quer?"))
    first = written[:]
    written.clear()
    made = build.prepare(frame, root, place, options=options)
    # The first shard is damaged, and the third was interrupted.
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


def test_shards_of_another_plan_are_told_by_their_rows(
    frame, root, monkeypatch
):
    """Both plans have files with the same names."""
    write = shards.write

    def interrupt(task):
        write(task)
        raise KeyboardInterrupt

    frame = frame.assign(split="train")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", interrupt)
        patch.setattr(planning, "_cuts", lambda hashes: [1])
        with pytest.raises(KeyboardInterrupt):
            build.prepare(frame, root)
    made = build.prepare(frame, root, options=build.Options(shards=2))
    want = contents(pipeline.FileSource(frame, root))
    assert contents(made.source()) == want
    assert [count for _, count in made.parts] == [3, 3]


def test_all_images_may_be_unreadable(frame, root):
    for path in root.glob("*.png"):
        path.write_bytes(b"")
    frame = frame[frame["image"] != ""].reset_index(drop=True)
    for _ in range(2):
        made = build.prepare(frame, root)
        rows, errors = made.errors(root, frame["image"])
        assert rows.tolist() == [*range(len(frame))]
        assert {error.kind for error in errors} == {faults.EMPTY}


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
    """This holds whether or not a damaged file has the planned rows."""
    place = root / "a[1]"  # opened through /proc/self/fd
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
    source = new.source()
    assert contents(source) == contents(pipeline.FileSource(frame, root))


@pytest.mark.parametrize("change", ["lost", "edited"])
def test_an_image_that_changes_for_a_moment_is_not_believed(
    frame, root, monkeypatch, change
):
    """The interrupted preparation discards what it read in the meantime."""
    path, read = root / "3.png", decoding.read_with_status
    good, status = path.read_bytes(), path.stat()

    def unsteady(name):
        if name == str(path):
            path.unlink()
            if change == "edited":
                Image.new("RGB", (8, 8), "blue").save(path)
        return read(name)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_with_status", unsteady)
        with pytest.raises(PassingError, match=r"3\.png was changed while"):
            build.prepare(frame, root)
    path.write_bytes(good)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    made = build.prepare(frame, root)
    assert not made.skipped
    source = made.source()
    assert contents(source) == contents(pipeline.FileSource(frame, root))


def test_a_decoder_that_is_installed_later_is_used(frame, root, monkeypatch):
    check = decoding.check

    def fail(*_, **__):
        raise faults.UnreadableImageError("no", faults.UNSUPPORTED)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "check", fail)
        assert len(build.prepare(frame, root).skipped) == 5
        assert len(build.prepare(frame, root).skipped) == 5
    assert decoding.check is check
    assert not build.prepare(frame, root).skipped


def test_kept_rows_are_not_decoded_again(frame, root, monkeypatch):
    """The result has the same bytes as data prepared from scratch."""
    options = build.Options(shards=2)
    old = build.prepare(frame, root, options=options)
    Image.new("RGB", (9, 9), "red").save(root / "2.png")
    edited = frame.copy()
    edited.loc[4, "text"] = "other words"
    edited = edited.drop(index=1).reset_index(drop=True)
    decoded, read = [], decoding.read_with_status

    def spy(path):
        decoded.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(decoding, "read_with_status", spy)
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


def test_images_with_new_times_are_kept(frame, root, monkeypatch):
    """Their bytes are compared, but the images are not decoded again."""
    build.prepare(frame, root)
    for path in root.glob("*.png"):
        os.utime(path, ns=(7, 7))
    frame = frame.copy()
    frame.loc[4, "group"] = "h"
    want = contents(pipeline.FileSource(frame, root))
    monkeypatch.setattr(decoding, "check", None)
    assert contents(build.prepare(frame, root).source()) == want


def test_versions_of_a_part_of_a_split_are_kept(frame, root):
    frame.attrs["table"] = str(root / "table.csv")
    for name in ("train", "train/a", "train"):
        build.prepare(table.select(frame, name), root).remove_others()
    assert len(generations_of(root)) == 2


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
    assert contents(new.source())[5] == (
        b"",
        "other words",
    )


def test_repaired_images_are_noticed(frame, root, monkeypatch):
    """This includes images whose permissions alone have changed."""
    good = (root / "3.png").read_bytes()
    (root / "3.png").write_bytes(b"")
    assert len(build.prepare(frame, root).skipped) == 1
    (root / "3.png").write_bytes(good)
    read, denied = decoding.read_with_status, [root / "3.png"]

    def deny(path):
        if pathlib.Path(path) in denied:
            raise faults.UnreadableImageError("no", faults.UNREADABLE)
        return read(path)

    monkeypatch.setattr(decoding, "read_with_status", deny)
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


def test_unwritable_folder_raises_an_error(frame, root):
    (root / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.prepared"):
        prepare(frame, root, root / "file" / "folder")
