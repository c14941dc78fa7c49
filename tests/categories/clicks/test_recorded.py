"""Counting what the service recorded."""

import json

import pytest

from mixer_jax.categories.clicks import recorded
from mixer_jax.runtime.errors import UserError

RED, BLUE, GONE = "a" * 32, "b" * 32 + "_1_2_9_12", "c" * 32


def event(query, item, clicked, session, time="2026-01-01T10:00:00Z"):
    return {
        "query_id": query,
        "item_id": item,
        "time": time,
        "clicked": clicked,
        "session": session,
    }


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in (f"{RED}.jpg", f"{BLUE}.png", f"{'d' * 32}.png", "other.txt"):
        (pictures / name).write_bytes(b"")
    rows = [
        event(RED, "shoe", 0, "one"),
        event(RED, "hat", 0, "one"),
        event(RED, "shoe", 1, "one"),
        event(RED, "shoe", 0, "two"),
        event(BLUE, "hat", 1, "three"),
        event(GONE, "hat", 1, "four"),
        event(RED, "sold", 1, "five"),
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "events-20260101-h-1-1.jsonl").write_text("".join(lines[:4]))
    # The service is writing the last line.
    rest = "".join(lines[4:]) + lines[0][:20]
    (tmp_path / "events-20260101-h-1-2.jsonl").write_text(rest)
    damaged = lines[0].encode().replace(b"shoe", b"\xff")
    (tmp_path / "events-20260101-h-1-3.jsonl").write_bytes(damaged)
    return tmp_path


def test_a_search_and_its_click_count_once(folder):
    found = recorded.read(folder, ["shoe", "hat"])
    assert found.clicks.to_numpy().tolist() == [
        [RED, "hat", 1, 0],
        [RED, "shoe", 2, 1],
        [BLUE, "hat", 1, 1],
    ]
    assert found.queries.to_numpy().tolist() == [
        [RED, f"pictures/{RED}.jpg", "", "", "", ""],
        [BLUE, f"pictures/{BLUE}.png", "1", "2", "9", "12"],
    ]
    assert found.left_out == {
        "incomplete or damaged": 2,
        "with unknown items": 1,
        "without a picture": 1,
    }


def test_a_folder_without_events_is_explained(tmp_path):
    assert not recorded.exists(tmp_path)
    with pytest.raises(UserError, match="start the service with --events="):
        recorded.read(tmp_path, [])


def test_a_folder_named_like_events_is_refused(folder):
    (folder / "events-20260102-h-1-1.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder instead of a file"):
        recorded.read(folder, [])
