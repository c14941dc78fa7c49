"""Simulated shoppers, with a service that answers at random."""

import http.server
import json
import threading

import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables.rules import COLUMNS
from mixer_jax.demo import shoppers
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def table(tmp_path):
    rows = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        for role in ("query", "document"):
            name = f"{role}{i}"
            rows.append((name, role, f"{i}.png", "", f"c{i}", "", "train"))
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


class Service:
    """Shows all six documents in a random order."""

    def __init__(self):
        self.rng, self.clicks = np.random.default_rng(0), []

    def post(self, path, body):
        if path == "v1/events":
            self.clicks += json.loads(body)["events"]
            return {}
        order = self.rng.permutation(6)
        hits = [{"id": f"document{i}"} for i in order]
        return {"search_id": f"{body[0]}", "results": hits}


def test_shoppers_click_on_what_they_searched_for(table):
    service = Service()
    settings = shoppers.Shoppers(2000, right=0.9, wrong=0.1)
    found = shoppers.visit(service.post, table, settings)
    assert found == (2000, len(service.clicks))
    clicks = pd.DataFrame(service.clicks)
    right = clicks["item_id"].str[-1] == clicks["search_id"]
    # Five of the six items are wrong.
    assert right.mean() == pytest.approx(0.9 / (0.9 + 5 * 0.1), abs=0.03)
    counts = clicks["position"].value_counts()
    assert counts[0] > 2 * counts[5]
    again = Service()
    shoppers.visit(again.post, table, settings)
    assert again.clicks == service.clicks


def test_the_command_reports_its_clicks(table, capsys):
    service = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.lstrip("/").partition("?")[0]
            answer = json.dumps(service.post(path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        url = f"--url=http://127.0.0.1:{made.server_port}"
        assert shoppers.main([url, f"--table={table}", "--searches=20"]) == 0
        made.shutdown()
    assert "20 simulated searches, " in capsys.readouterr().out
    assert shoppers.main([url, f"--table={table}"]) == 2
    assert "v1/search?k=12 failed: " in capsys.readouterr().err


def test_a_table_without_queries_is_refused(table):
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    frame[frame["role"] == "document"].to_csv(table, index=False)
    with pytest.raises(UserError, match="no queries with a picture"):
        shoppers.visit(Service().post, table, shoppers.Shoppers())
