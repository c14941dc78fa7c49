"""Clicks reported by clients."""

import json

import pytest
from starlette.testclient import TestClient

from mixer_jax.service import server
from mixer_jax.service.http import parameters
from mixer_jax.service.http.recording import Recorder
from mixer_jax.service.http.settings import DEFAULTS
from tests.service.conftest import draw, observe_loops
from tests.service.http.test_recording import read, sign


@pytest.fixture
def recorded(shared, tmp_path):
    """A client and the recorder of its events."""
    folder = tmp_path / "events"
    recorder = Recorder(folder, 90)
    settings = DEFAULTS._replace(recorder=recorder)
    with TestClient(server.make_app(shared, settings)) as client:
        yield client, recorder


def test_searches_and_clicks_are_written(recorded):
    client, recorder = recorded
    folder = recorder._folder
    answer = client.post("/v1/search?k=2", content=draw("red")).json()
    click = {"search_id": answer["search_id"], "position": 1}
    click["item_id"] = answer["results"][1]["id"]
    response = client.post("/v1/events", json=click)
    assert (response.status_code, response.json()) == (202, {"recorded": 1})
    response = client.post("/v1/events", json={"events": [click, click]})
    assert response.json() == {"recorded": 2}
    # Only searches without a text are recorded.
    client.post("/v1/search?id=red.png", content=b"")
    client.post("/v1/search?text=a", content=draw("red"))
    client.__exit__()
    found = read(folder)
    assert [event[3] for event in found] == [0, 0, 1, 1, 1]
    assert [event[1] for event in found[:2]] == [
        one["id"] for one in answer["results"]
    ]
    assert len(list((folder / "pictures").iterdir())) == 1
    first = json.loads(next(folder.glob("*.jsonl")).read_text().splitlines()[0])
    assert first["position"] == 0


def test_bad_events_get_an_error_message(recorded):
    client, recorder = recorded
    answer = client.post("/v1/search?k=1", content=draw("red")).json()
    good = {"search_id": answer["search_id"], "item_id": "red.png"}
    search = recorder.parse(good["search_id"])
    now = search.time
    later, old = (
        sign(recorder, search._replace(time=time))
        for time in (now + 10**12, now - 91 * 86_400 * 10**6)
    )
    forged = [
        good["search_id"].replace(str(now), str(now - 1)),
        good["search_id"].replace(search.session, "0" * 16),
        good["search_id"].replace(search.query, "0" * 32),
    ]
    for body, status, message in (
        ({}, 400, "search_id is not the ID of a recorded search"),
        (good | {"search_id": "x"}, 400, "search_id is not"),
        (good | {"search_id": later}, 400, "search_id is not"),
        (good | {"search_id": old}, 400, "search_id is not"),
        *((good | {"search_id": one}, 400, "search_id is") for one in forged),
        (good | {"item_id": ""}, 400, "item_id is missing"),
        (good | {"item_id": "none"}, 404, "There is no item 'none'"),
        (good | {"position": "1"}, 400, "position must be"),
        (good | {"position": -1}, 400, "position must be"),
        (good | {"position": None}, 400, "position must be"),
        (good | {"position": 1_000_000}, 400, "position must be"),
        (good | {"item": 1}, 400, "did you mean 'item_id'"),
        ({"events": []}, 400, "1 to 100"),
        ({"events": [5]}, 400, "not a JSON object"),
    ):
        response = client.post("/v1/events", json=body)
        assert response.status_code == status, response.text
        assert message in response.json()["error"]


def test_bodies_are_parsed_in_threads(recorded, monkeypatch):
    client, _ = recorded
    loops = observe_loops(monkeypatch, parameters, "read_json")
    assert client.post("/v1/events", json={}).status_code == 400
    assert loops == [None]


def test_events_are_refused_without_a_folder(client):
    response = client.post("/v1/events", json={})
    assert response.status_code == 403
    assert "--events=FOLDER" in response.json()["error"]
