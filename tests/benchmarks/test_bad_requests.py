"""Bad requests are sent, and their answers are counted."""

import collections
import subprocess

from benchmarks import bad_requests
from mixer_jax.service.http import searches


def test_bad_requests_are_answered_and_counted(monkeypatch):
    sent = []
    monkeypatch.setattr(subprocess, "run", lambda *a, **b: sent.append(a[0]))
    rows, faults = bad_requests.measure(60, 24)
    assert not faults
    assert not any(row["is_fault"] for row in rows)
    counts = collections.Counter()
    for row in rows:
        counts[row["requests"]] += row["count"]
    # Without schemathesis, the request for the counts is the only new one.
    assert counts == {"pictures": 60, "schema": 1, "afterwards": 1}
    assert {row["status"] for row in rows} >= {200, 400}
    assert any("--max-examples=2" in command for command in sent)
    assert bad_requests.table(rows).row_count == len(rows)


def test_faults_are_found(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(searches, "_prepare", fail)
    monkeypatch.setattr(bad_requests, "drawn", lambda *_: [])
    assert bad_requests.main([f"--faults={tmp_path / 'faults'}"]) == 1
    assert "yes" in capsys.readouterr().out


def test_a_request_without_an_answer_is_a_fault():
    request = bad_requests.Request("GET", "/", b"", {})
    counts, faults = bad_requests.send(("127.0.0.1", 1), [request])
    assert counts == {0: 1}
    assert faults[0][0] == request
