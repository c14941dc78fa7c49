"""Recording searches and clicks as click events."""

import io
import os
import time

import pandas as pd
import pytest

from mixer_jax.categories import click_log
from mixer_jax.categories.clicks import event_counts, events
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http import recording
from mixer_jax.service.http.recording import Click, Recorder
from tests.service.conftest import draw


def read(folder):
    """Returns a folder's events as read by `aggregate`."""
    found = []
    for path in sorted(folder.glob("events-*.jsonl")):
        rows = events.read(str(path), io.BytesIO(path.read_bytes()))
        found += [events.parse(cells) for _, cells in rows]
    return found


def test_a_search_and_its_click_are_one_exposure(tmp_path):
    recorder = Recorder(tmp_path, 90)
    red = draw("red")
    search = recorder.parse(recorder.search(red, "", ["a", "b"]))
    recorder.clicks([Click(search, "b", 1)])
    recorder.search(red, "", ["a"])
    recorder.close()
    found = read(tmp_path)
    assert [(e[1], e[3]) for e in found] == [("a", 0), ("b", 0), ("b", 1)] + [
        ("a", 0)
    ]
    assert {event[0] for event in found} == {search.query}
    assert found[0][2] == found[2][2] == search.time
    counter = event_counts.Counter(None)
    for item, expected in (("a", (2, 0, 0, 0, 0)), ("b", (1, 1, 0, 0, 1))):
        part = counter.create_accumulator()
        for _, one, moment, clicked, session in found:
            if one == item:
                counter.add_input(part, (session, moment, clicked))
        assert counter.extract_output(part) == expected


def test_queries_are_a_table_of_a_click_log(tmp_path):
    recorder = Recorder(tmp_path, 90)
    names = [
        recorder.parse(recorder.search(draw(color), box, ["a"])).query
        for color, box in (("red", ""), ("red", "1,2,9,12"), ("blue", ""))
    ]
    recorder.close()
    clicks = pd.DataFrame(
        {
            "query_id": names,
            "item_id": "a",
            "exposures": ["2"] * 3,
            "clicks": ["1"] * 3,
        }
    )
    items = pd.DataFrame({"item_id": ["a"], "image": [""], "text": ["b"]})
    log = click_log.read_tables(tmp_path / "queries.csv", items, clicks)
    assert set(log.queries["query_id"]) == set(names)
    boxed = log.queries.set_index("query_id")["image"][names[1]]
    assert str(boxed).endswith("#box=1,2,9,12")
    with open(str(boxed).partition("#")[0], "rb") as file:
        assert file.read() == draw("red")


def test_files_rotate_by_size_and_day(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path, 90, max_bytes=1)
    for _ in range(2):
        recorder.search(draw("red"), "", ["a"])
    recorder.close()
    assert len(list(tmp_path.glob("events-*.jsonl"))) == 2

    other = Recorder(tmp_path / "other", 90)
    other.search(draw("red"), "", ["a"])
    other._executor.submit(lambda: None).result()
    monkeypatch.setattr(recording, "_today", lambda: "20991231")
    other.search(draw("red"), "", ["a"])
    other.close()
    names = sorted(p.name for p in (tmp_path / "other").glob("events-*"))
    assert len({name.split("-")[1] for name in names}) == 2


def test_old_files_are_removed(tmp_path):
    recorder = Recorder(tmp_path, 2)
    for color in ("red", "blue"):
        recorder.search(draw(color), "", ["a"])
    recorder.close()
    (old,) = tmp_path.glob("events-*.jsonl")
    first, second = sorted((tmp_path / "pictures").iterdir())
    (tmp_path / "pictures" / "notes").write_text("mine")
    past = time.time() - 4 * 86_400
    for path in (old, first, tmp_path / "pictures" / "notes"):
        os.utime(path, (past, past))
    Recorder(tmp_path, 2).close()
    assert not old.exists()
    kept = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert kept == {second.name, "notes"}
    table = pd.read_csv(tmp_path / "queries.csv")
    assert table["query_id"].tolist() == [second.stem]


def test_errors_are_reported_once_and_counted(tmp_path, capsys, monkeypatch):
    lost = []
    recorder = Recorder(tmp_path, 90)
    recorder.on_loss = lambda: lost.append(1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "_write_search", fail)
    for _ in range(2):
        assert recorder.search(draw("red"), "", ["a"])
    recorder.close()
    assert len(lost) == 2
    assert capsys.readouterr().err.count("events are not recorded") == 1


def test_a_folder_that_cannot_be_used_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        Recorder(tmp_path / "file", 90)


def test_pictures_outlive_the_events_that_name_them(tmp_path):
    recorder = Recorder(tmp_path, 2)
    first = recorder.parse(recorder.search(draw("red"), "", ["a"]))
    recorder.search(draw("blue"), "", ["a"])
    recorder._executor.submit(lambda: None).result()
    red, blue = sorted(
        (tmp_path / "pictures").iterdir(), key=lambda p: p.stem != first.query
    )
    # Events are written until the end of the day.
    past = time.time() - 2.9 * 86_400
    for path in (red, blue):
        os.utime(path, (past, past))
    recorder.clicks([Click(first, "a", 0)])
    recorder.close()
    assert red.stat().st_mtime > past + 86_400
    Recorder(tmp_path, 2).close()
    assert blue.exists()
    past -= 86_400
    os.utime(blue, (past, past))
    Recorder(tmp_path, 2).close()
    table = pd.read_csv(tmp_path / "queries.csv")
    assert table["query_id"].tolist() == [first.query]


def test_clicks_on_unwritten_searches_are_lost(tmp_path, monkeypatch):
    lost = []
    recorder = Recorder(tmp_path, 90)
    recorder.on_loss = lambda: lost.append(1)
    with monkeypatch.context() as patch:
        patch.setattr(recording, "_BACKLOG", 0)
        search = recorder.parse(recorder.search(draw("red"), "", ["a"]))
    recorder.clicks([Click(search, "a", 0)])
    recorder.close()
    assert len(lost) == 2
    assert read(tmp_path) == []


def sign(recorder, search):
    """Returns the ID of a search."""
    plain = "-".join(map(str, search))
    return f"{plain}-{recorder._sign(plain)}"


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path, 90)
    yield made
    made.close()


@pytest.mark.parametrize("text", ["", "1-2-3", "a" * 99, "é"])
def test_other_ids_are_not_searches(recorder, text):
    assert recorder.parse(text) is None


def test_ids_of_searches_are_parsed(recorder):
    one = recording.Search(10**15, "a" * 16, "b" * 32 + "_1_2_3_4")
    assert recorder.parse(sign(recorder, one)) == one
    assert recorder.parse(sign(recorder, one) + "\n") is None


def test_forged_ids_are_refused(recorder, tmp_path):
    text = recorder.search(draw("red"), "", ["a"])
    search = recorder.parse(text)
    for part in (*map(str, search), text.rpartition("-")[2]):
        digit = "1" if part[-1] == "0" else "0"
        forged = text.replace(part, part[:-1] + digit)
        assert forged != text
        assert recorder.parse(forged) is None
    # Recorders of this folder accept the ID; those of other folders do not.
    for folder, expected in ((tmp_path, search), (tmp_path / "other", None)):
        other = Recorder(folder, 90)
        assert other.parse(text) == expected
        other.close()


def test_only_the_owner_can_read_the_key(recorder, tmp_path):
    path = tmp_path / "search_ids.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == recorder._key
    assert len(recorder._key) == 32


def test_an_incomplete_key_is_replaced(tmp_path):
    (tmp_path / "search_ids.key").write_bytes(b"short")
    made = Recorder(tmp_path, 90)
    made.close()
    assert (tmp_path / "search_ids.key").read_bytes() == made._key != b"short"
