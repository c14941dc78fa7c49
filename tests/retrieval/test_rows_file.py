import json
import threading
import time

import pytest

from mixer_jax.retrieval import metrics, rows_file
from mixer_jax.runtime.errors import UserError


def row(model, value, split="test"):
    return {
        "model": model,
        "stage": "",
        "split": split,
        "gallery": "test",
        "queries": 1,
        "documents": 1,
        "identical_at_1": value,
    }


def test_update_replaces_rows_with_the_same_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "new" / "metrics.json"
    rows_file.update(path, [row("a", 1), row("b", 2)])
    merged = rows_file.update(path, [row("a", 3), row("a", 4, "test/x")])
    assert merged == [row("a", 3), row("b", 2), row("a", 4, "test/x")]
    assert json.loads(path.read_text()) == merged
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list of evaluation rows"):
        rows_file.update(path, [])


def test_concurrent_updates_lose_no_rows(tmp_path, monkeypatch):
    path = tmp_path / "new" / "metrics.json"
    merge = rows_file.merge

    def slowly(path, rows):
        merged = merge(path, rows)
        time.sleep(0.05)
        return merged

    monkeypatch.setattr(rows_file, "merge", slowly)
    models = [f"model {number}" for number in range(4)]
    threads = [
        threading.Thread(target=rows_file.update, args=(path, [row(name, 1)]))
        for name in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = json.loads(path.read_text())
    assert sorted(one["model"] for one in found) == models
    assert [path.name for path in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b"3",
        json.dumps([row("a", 1) | {"model": 3}]).encode(),
        json.dumps([row("a", 1) | {"queries": None}]).encode(),
        json.dumps([row("a", "x")]).encode(),
        json.dumps([row("a", 10**400)]).encode(),
        json.dumps([{k: row("a", 1)[k] for k in metrics.KEY}]).encode(),
    ],
)
def test_malformed_rows_are_not_merged(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a list of evaluation rows"):
        rows_file.update(path, [row("b", 1)])
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}x", b"\xff\xfe\xff", b"[" * 99_999])
def test_rows_are_rescued_if_the_file_has_changed(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.json"
    rows_file.check_out(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a list of evaluation"):
        rows_file.check_out(path)
    with pytest.raises(UserError, match=r"not a list of evaluation.* saved as"):
        rows_file.update(path, [row("a", 1)])
    assert path.read_bytes() == content
    (kept,) = tmp_path.glob("rescued-*/rows.json")
    assert json.loads(kept.read_text()) == [row("a", 1)]
