"""State shared by all request handlers."""

import asyncio

import pytest
from starlette.exceptions import HTTPException

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http.context import Service
from mixer_jax.service.http.keys import Keys
from tests.service.batches.test_generations import rebuild


@pytest.fixture
def service(own):
    made = Service(own, max_megabytes=1, keys=Keys())
    yield made
    made.close()


def test_queries_are_refused_if_too_many_are_in_flight(service):
    limit = service.searches.admission.limit
    with service.admitted(limit - 1):
        service.require_room()
        with service.admitted():
            for refuse in (service.require_room, service.admitted().__enter__):
                with pytest.raises(HTTPException) as caught:
                    refuse()
                assert caught.value.status_code == 503
                assert int(caught.value.headers["Retry-After"]) >= 1
    assert service.searches.admission.held == 0
    text = service.metrics.text()
    assert "mixer_refused_total 2" in text
    assert "mixer_index_items 12" in text


def test_an_index_stays_open_while_its_items_are_counted(service, monkeypatch):
    generation, users = service.generations.current, []

    def count():
        users.append(generation._users)
        return 12

    monkeypatch.setattr(generation.index.store, "count", count)
    assert "mixer_index_items 12" in service.metrics.text()
    assert users == [1]


def test_a_write_after_a_rebuild_goes_to_the_new_index(
    service, place, color_net
):
    rebuild(place, color_net)

    def write(generation):
        generation.index.upsert(["new"], vectors=[[1, 0, 0]])
        return len(generation.index)

    assert asyncio.run(service.write(write)) == 2


def test_a_bad_write_raises_its_error(service):
    def write(generation):
        generation.index.upsert(["new"], texts=[5])

    with pytest.raises(UserError, match="must be a string"):
        asyncio.run(service.write(write))


def test_writes_that_wait_are_limited(service):
    service._writing.limit = 0
    with pytest.raises(HTTPException) as caught:
        asyncio.run(service.write(lambda generation: None))
    assert caught.value.status_code == 503
